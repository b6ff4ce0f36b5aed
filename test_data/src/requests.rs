//! Finding the requests in what an HTTP/1.1 client sends.
//!
//! Assumes bodies that have a `Content-Length`, as those of our clients do.

/// Reads a client's half of a connection, however it is cut into pieces.
#[derive(Debug, Default)]
pub struct Requests {
    /// The beginning of a head of which the rest is still to come.
    head: Vec<u8>,
    /// What is still to come of the current request's body.
    body: usize,
}

/// What a piece completed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The request line of each head that ended in this piece.
    pub lines: Vec<String>,
    /// How many requests ended in this piece, body and all.
    pub complete: usize,
}

impl Requests {
    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> Seen {
        let mut seen = Seen::default();
        for byte in piece {
            if self.body > 0 {
                self.body -= 1;
                seen.complete += usize::from(self.body == 0);
                continue;
            }
            self.head.push(*byte);
            if self.head.ends_with(b"\r\n\r\n") {
                let head = String::from_utf8_lossy(&self.head).into_owned();
                self.head.clear();
                self.body = body_length(&head);
                seen.complete += usize::from(self.body == 0);
                seen.lines.push(head.lines().next().unwrap_or_default().to_owned());
            }
        }
        seen
    }
}

fn body_length(head: &str) -> usize {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().and_then(|(_, length)| length.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_found_however_they_are_cut() {
        let sent = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPUT /b HTTP/1.1\r\ncontent-length: 5\r\n\r\n\r\n\r\n!GET /c HTTP/1.1\r\n\r\n";
        for size in 1..=sent.len() {
            let mut requests = Requests::default();
            let seen = sent.chunks(size).map(|piece| requests.feed(piece)).collect::<Vec<_>>();
            let lines = seen.iter().flat_map(|seen| &seen.lines).collect::<Vec<_>>();
            assert_eq!(lines, ["GET /a HTTP/1.1", "PUT /b HTTP/1.1", "GET /c HTTP/1.1"], "in pieces of {size}");
            assert_eq!(seen.iter().map(|seen| seen.complete).sum::<usize>(), 3, "in pieces of {size}");
        }
    }
}
