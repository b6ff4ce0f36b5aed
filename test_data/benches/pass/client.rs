//! The peer: a client that asks Consul over connections that it keeps, and does nothing with the answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// One connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
    /// The last answer's head and body, kept for its room.
    line: String,
    body: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::with_capacity(64 * 1024, stream), line: String::new(), body: Vec::new() }
    }

    /// One request, and its whole answer, which has to be a good one.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &[u8]) {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: consul\r\nContent-Length: {length}\r\n\r\n");
        self.stream.get_mut().write_all(&[head.as_bytes(), body].concat()).unwrap();
        assert!(self.line().starts_with("HTTP/1.1 200 "), "{method} {path}: {}", self.line);
        self.body.clear();
        match self.length() {
            Some(length) => self.read(length),
            None => self.read_chunks(),
        }
    }

    /// Reads the rest of the head. `None` when the body comes in chunks.
    fn length(&mut self) -> Option<usize> {
        let mut length = None;
        while self.line() != "\r\n" {
            let (name, value) = self.line.split_once(':').unwrap();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.trim().parse().unwrap());
            }
        }
        length
    }

    fn read_chunks(&mut self) {
        loop {
            let length = usize::from_str_radix(self.line().trim_end(), 16).unwrap();
            self.read(length);
            self.line();
            if length == 0 {
                return;
            }
        }
    }

    fn read(&mut self, length: usize) {
        let read = self.stream.by_ref().take(length as u64).read_to_end(&mut self.body).unwrap();
        assert_eq!(read, length, "the answer is cut off");
    }

    fn line(&mut self) -> &str {
        self.line.clear();
        self.stream.read_line(&mut self.line).unwrap();
        &self.line
    }
}
