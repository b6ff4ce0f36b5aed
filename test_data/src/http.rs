//! Just enough of an HTTP client for tests: one request, one connection.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Longer than any answer takes, shorter than anyone waits for a hung test.
const TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) struct Response {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let headers = self.head.lines().filter_map(|line| line.split_once(':'));
        headers.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// One GET from this host's port; `None` if nobody answered.
pub fn http_get(port: u16, path: &str) -> Option<(u16, String)> {
    let response = request(&format!("127.0.0.1:{port}"), "GET", path, "", b"").ok()?;
    Some((response.status, response.body))
}

/// One request. `headers` are whole lines, each ending in CR LF.
///
/// Speaks HTTP/1.0, so that no server answers in chunks.
pub(crate) fn request(addr: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<Response> {
    request_within(TIMEOUT, addr, method, path, headers, body)
}

/// The same with another patience, for each step of it.
pub(crate) fn request_within(
    patience: Duration,
    addr: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> io::Result<Response> {
    let addr = addr.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&addr, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.0\r\nHost: {addr}\r\nContent-Length: {length}\r\n{headers}\r\n");
    stream.write_all(&[head.as_bytes(), body].concat())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The answer, if it is whole.
fn parse(answer: &[u8]) -> Option<Response> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let body = &answer[end + 4..];
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let response = Response { status, head, body: String::from_utf8_lossy(body).into_owned() };
    let promised = response.header("content-length").and_then(|length| length.parse::<usize>().ok());
    promised.is_none_or(|length| length == body.len()).then_some(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_listening_is_no_answer() {
        assert_eq!(http_get(crate::free_port(), "/"), None);
    }

    #[test]
    fn half_an_answer_is_none() {
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc").is_none());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Len").is_none());
        let whole = parse(b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nabc").unwrap();
        assert_eq!((whole.status, whole.body.as_str()), (404, "abc"));
    }
}
