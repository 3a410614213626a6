//! Reading one HTTP/1 answer as it arrives. Only what the proxies under test send: no trailers, no upgrades.

use anyhow::{Result, bail};

/// Most bytes of a head, and of a chunk's size line.
const LONGEST_HEAD: usize = 64 << 10;

/// An answer that is being read.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    state: State,
    /// Status; 0 until the head is complete.
    pub(crate) status: u16,
    /// The body so far, without the chunks' frames.
    pub(crate) body: Vec<u8>,
    unread: Vec<u8>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Head,
    /// So many bytes of a body of known length are missing.
    Length(usize),
    /// A chunk's size line comes next.
    Size,
    /// So many bytes of a chunk are missing, then its line end.
    Chunk(usize),
    /// The empty line after the last chunk comes next.
    End,
    Done,
}

impl Answer {
    /// Ready for the next answer on the same connection.
    pub(crate) fn clear(&mut self) {
        self.state = State::Head;
        self.status = 0;
        self.body.clear();
    }

    /// Takes bytes in; true when the answer is complete.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<bool> {
        self.unread.extend_from_slice(bytes);
        while self.state != State::Done {
            if !self.step()? {
                return Ok(false);
            }
        }
        if !self.unread.is_empty() {
            bail!("{} bytes follow the end of the answer", self.unread.len());
        }
        Ok(true)
    }

    /// One step further; false when more bytes are needed for it.
    fn step(&mut self) -> Result<bool> {
        match self.state {
            State::Head => self.head(),
            State::Length(missing) => {
                let left = self.body_bytes(missing);
                self.state = if left == 0 { State::Done } else { State::Length(left) };
                Ok(left == 0)
            }
            State::Size => {
                let Some(line) = self.line()? else { return Ok(false) };
                let digits = line.split(|b| *b == b';').next().unwrap_or_default().trim_ascii();
                let size = usize::from_str_radix(std::str::from_utf8(digits)?, 16)?;
                self.state = if size == 0 { State::End } else { State::Chunk(size) };
                Ok(true)
            }
            State::Chunk(0) => {
                let Some(line) = self.line()? else { return Ok(false) };
                if !line.is_empty() {
                    bail!("a chunk is longer than its size says");
                }
                self.state = State::Size;
                Ok(true)
            }
            State::Chunk(missing) => {
                let left = self.body_bytes(missing);
                self.state = State::Chunk(left);
                Ok(left == 0)
            }
            State::End => {
                let Some(line) = self.line()? else { return Ok(false) };
                if line.is_empty() {
                    self.state = State::Done;
                }
                Ok(true)
            }
            State::Done => Ok(true),
        }
    }

    fn head(&mut self) -> Result<bool> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(end) = response.parse(&self.unread)? else {
            if self.unread.len() > LONGEST_HEAD {
                bail!("the answer's head does not end");
            }
            return Ok(false);
        };
        let value = |name: &str| {
            let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.and_then(|header| std::str::from_utf8(header.value).ok())
        };
        let chunked = value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
        self.status = response.code.unwrap_or_default();
        self.state = match value("content-length") {
            _ if chunked => State::Size,
            Some(length) => State::Length(length.parse()?),
            // The answer to `CONNECT` has neither; no other answer here may lack both.
            None => State::Length(0),
        };
        self.unread.drain(..end);
        Ok(true)
    }

    /// Moves at most `missing` bytes to the body; how many are missing then.
    fn body_bytes(&mut self, missing: usize) -> usize {
        let taken = missing.min(self.unread.len());
        self.body.extend(self.unread.drain(..taken));
        missing - taken
    }

    /// The next line without its end, when it is complete.
    fn line(&mut self) -> Result<Option<Vec<u8>>> {
        let Some(end) = memchr::memchr(b'\n', &self.unread) else {
            if self.unread.len() > LONGEST_HEAD {
                bail!("a chunk's size line does not end");
            }
            return Ok(None);
        };
        let mut line: Vec<u8> = self.unread.drain(..=end).collect();
        line.pop();
        line.pop_if(|last| *last == b'\r');
        Ok(Some(line))
    }
}

#[cfg(test)]
mod tests {
    use super::Answer;

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    const CHUNKED: &[u8] =
        b"HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n";

    #[test]
    fn an_answer_is_the_same_wherever_it_is_split() {
        for (bytes, status) in [(WHOLE, 200), (CHUNKED, 403)] {
            for split in 0..bytes.len() {
                let mut answer = Answer::default();
                let (first, second) = bytes.split_at(split);
                assert!(!answer.take(first).unwrap(), "done after {split} bytes");
                assert!(answer.take(second).unwrap());
                assert_eq!((answer.status, answer.body.as_slice()), (status, b"hello".as_slice()));
            }
        }
    }

    #[test]
    fn a_connection_gives_one_answer_after_the_other() {
        let mut answer = Answer::default();
        for bytes in [CHUNKED, WHOLE, CHUNKED] {
            answer.clear();
            assert!(answer.take(bytes).unwrap());
            assert_eq!(answer.body, b"hello");
        }
    }

    #[test]
    fn what_is_not_an_answer_is_an_error() {
        for bytes in [
            b"SSH-2.0-x\r\n\r\n".as_slice(),
            b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
        ] {
            assert!(Answer::default().take(bytes).is_err());
        }
    }
}
