//! Heads of requests and answers, with the order and the spelling of their fields kept.

use super::wire::Body;

/// The fields of a head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let same = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
        self.0.iter().find(same).map(|(_, value)| value.as_str())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.0
            .retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    pub(crate) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.remove(name);
        self.0.push((name.to_owned(), value.into()));
    }

    fn parse(lines: &str) -> Result<Self, String> {
        let field = |line: &str| {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| format!("a field without a colon: {line:?}"))?;
            if name.is_empty() || !name.bytes().all(is_token) {
                return Err(format!("a bad field name: {name:?}"));
            }
            Ok((name.to_owned(), value.trim().to_owned()))
        };
        let lines = lines.split("\r\n").filter(|line| !line.is_empty());
        lines.map(field).collect::<Result<_, _>>().map(Self)
    }

    fn write(&self, first: &str) -> String {
        let fields = self.0.iter();
        let lines = fields.map(|(name, value)| format!("{name}: {value}\r\n"));
        format!("{first}\r\n{}\r\n", lines.collect::<String>())
    }

    fn closes(&self) -> bool {
        self.get("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    fn length(&self) -> Result<Option<u64>, String> {
        let bad = || "a bad Content-Length".to_owned();
        self.get("content-length")
            .map(|value| value.parse().map_err(|_| bad()))
            .transpose()
    }

    fn is_chunked(&self) -> bool {
        self.get("transfer-encoding").is_some()
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The head of a request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query, as sent.
    pub(crate) target: String,
    pub(crate) headers: Headers,
    pub(crate) body: Body,
}

impl Request {
    pub(crate) fn parse(head: &[u8]) -> Result<Self, String> {
        let head = std::str::from_utf8(head).map_err(|_| "a head that is not UTF-8")?;
        let (first, lines) = head.split_once("\r\n").unwrap_or((head, ""));
        let mut parts = first.split(' ');
        let (method, target, version) = (parts.next(), parts.next(), parts.next());
        let (Some(method), Some(target), Some("HTTP/1.1"), None) =
            (method, target, version, parts.next())
        else {
            return Err(format!("a bad request line: {first:?}"));
        };
        let printable = target.bytes().all(|byte| byte.is_ascii_graphic());
        if method.is_empty() || !method.bytes().all(is_token) || !printable {
            return Err(format!("a bad request line: {first:?}"));
        }
        if !target.starts_with('/') {
            return Err(format!("a target that is no path: {target:?}"));
        }
        let headers = Headers::parse(lines)?;
        let body = match (headers.is_chunked(), headers.length()?) {
            (true, Some(_)) => return Err("both Content-Length and Transfer-Encoding".to_owned()),
            (true, None) => Body::Chunked { left: 0 },
            (false, length) => Body::Length(length.unwrap_or(0)),
        };
        Ok(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers,
            body,
        })
    }

    pub(crate) fn write(&self) -> String {
        let first = format!("{} {} HTTP/1.1", self.method, self.target);
        self.headers.write(&first)
    }

    pub(crate) fn closes(&self) -> bool {
        self.headers.closes()
    }

    /// Whether it has a body of at least a byte.
    pub(crate) fn has_body(&self) -> bool {
        !matches!(self.body, Body::Length(0) | Body::Done)
    }
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Body,
}

impl Answer {
    /// Reads the head of an answer to a request of `method`.
    pub(crate) fn parse(head: &[u8], method: &str) -> Result<Self, String> {
        let head = String::from_utf8_lossy(head);
        let (first, lines) = head.split_once("\r\n").unwrap_or((&head, ""));
        let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status: u16 = status.ok_or_else(|| format!("a bad status line: {first:?}"))?;
        let headers = Headers::parse(lines)?;
        let bodiless = method == "HEAD" || status < 200 || status == 204 || status == 304;
        let body = match (headers.is_chunked(), headers.length()?) {
            _ if bodiless => Body::Done,
            (true, _) => Body::Chunked { left: 0 },
            (false, Some(length)) => Body::Length(length),
            (false, None) => Body::UntilClose,
        };
        Ok(Self {
            status,
            headers,
            body,
        })
    }

    pub(crate) fn write(&self) -> String {
        // The reason phrase has no meaning (RFC 9112, section 4), but its space must be there.
        self.headers.write(&format!("HTTP/1.1 {} ", self.status))
    }

    pub(crate) fn closes(&self) -> bool {
        self.headers.closes() || self.body == Body::UntilClose
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_and_written_as_it_was() {
        let text = "PATCH /v2/a/blobs/uploads/1?_state=x%3D HTTP/1.1\r\nhost: h\r\nContent-Length: 3\r\n\r\n";
        let request = Request::parse(text.as_bytes()).unwrap();
        assert_eq!(request.body, Body::Length(3));
        assert_eq!(request.headers.get("HOST"), Some("h"));
        assert_eq!(request.write(), text);
    }

    #[test]
    fn malformed_requests_are_refused() {
        for text in [
            "GET /\r\n\r\n",
            "GET / HTTP/1.0\r\n\r\n",
            "GET  / HTTP/1.1\r\n\r\n",
            "GET http://h/ HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "GET / HTTP/1.1\r\nspace : x\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            "PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert!(Request::parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_answer_to_head_has_no_body() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        let body = |method| Answer::parse(text.as_bytes(), method).unwrap().body;
        assert_eq!((body("HEAD"), body("GET")), (Body::Done, Body::Length(9)));
    }
}
