//! The part of HTTP/1.1 that the page needs: one resource, and the handshake of WebSocket (RFC
//! 6455, section 4).

use tungstenite::handshake::derive_accept_key;

/// The page, with its style and its script.
const PAGE: &str = include_str!("page.html");

/// The longest head of a request in bytes.
const LONGEST_HEAD: usize = 8 << 10;
const MOST_FIELDS: usize = 64;

/// What the server does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The response of HTTP. The connection continues, or closes.
    Response { bytes: Vec<u8>, closes: bool },
    /// The response that begins WebSocket.
    Upgrade(String),
}

/// Replies to the request at the front of `input`. Returns the reply and the length of the request;
/// `None` if it is incomplete.
pub(crate) fn reply(input: &[u8]) -> Option<(Reply, usize)> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(&input[..input.len().min(LONGEST_HEAD)]) {
        Ok(httparse::Status::Complete(length)) => Some((Request(&request).reply(), length)),
        Ok(httparse::Status::Partial) if input.len() < LONGEST_HEAD => None,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => {
            Some((refuse("431 Request Header Fields Too Large"), input.len()))
        }
        Err(_) => Some((refuse("400 Bad Request"), input.len())),
    }
}

/// A response without the page. The connection closes: where the next request begins may be
/// unknown.
pub(crate) fn refuse(status: &str) -> Reply {
    let text = format!("{status}\n");
    let head = head(status, "text/plain; charset=utf-8", text.len(), true);
    Reply::Response { bytes: (head + &text).into_bytes(), closes: true }
}

fn head(status: &str, content_type: &str, length: usize, closes: bool) -> String {
    let connection = if closes { "Connection: close\r\n" } else { "" };
    // The page loads nothing, and connects to this server only.
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{connection}\
         Cache-Control: no-cache\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\n\
         Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; \
         script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'\r\n\r\n"
    )
}

struct Request<'a, 'b>(&'a httparse::Request<'b, 'b>);

impl Request<'_, '_> {
    fn reply(&self) -> Reply {
        let Request(request) = self;
        let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
        let has_body = self.field("Transfer-Encoding").is_some()
            || self.field("Content-Length").is_some_and(|length| length != "0");
        let path = path.split_once('?').map_or(path, |(path, _)| path);
        match (method, path) {
            _ if request.version != Some(1) => refuse("505 HTTP Version Not Supported"),
            _ if self.fields("Host").count() != 1 => refuse("400 Bad Request"),
            _ if has_body => refuse("413 Content Too Large"),
            ("GET" | "HEAD", "/") => {
                let closes = self.has_token("Connection", "close");
                let mut bytes = head("200 OK", "text/html; charset=utf-8", PAGE.len(), closes).into_bytes();
                if method == "GET" {
                    bytes.extend_from_slice(PAGE.as_bytes());
                }
                Reply::Response { bytes, closes }
            }
            ("GET", "/chat") => self.upgrade(),
            ("GET" | "HEAD", _) => refuse("404 Not Found"),
            _ => refuse("405 Method Not Allowed"),
        }
    }

    fn upgrade(&self) -> Reply {
        if !self.has_token("Connection", "upgrade") || !self.has_token("Upgrade", "websocket") {
            return refuse("426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13");
        }
        if self.field("Sec-WebSocket-Version") != Some("13") {
            return refuse("426 Upgrade Required\r\nSec-WebSocket-Version: 13");
        }
        // Another site could otherwise chat in the name of its visitor.
        if !self.is_of_same_origin() {
            return refuse("403 Forbidden");
        }
        // 16 bytes in base64.
        match self.field("Sec-WebSocket-Key").filter(|key| key.len() == 24 && key.ends_with("==")) {
            Some(key) => Reply::Upgrade(format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                derive_accept_key(key.as_bytes())
            )),
            None => refuse("400 Bad Request"),
        }
    }

    /// Whether the page that connects is of this server. A program other than a browser sends no
    /// origin.
    fn is_of_same_origin(&self) -> bool {
        self.fields("Origin").all(|origin| {
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            authority.is_some_and(|authority| {
                self.field("Host").is_some_and(|host| host.eq_ignore_ascii_case(authority))
            })
        })
    }

    /// The values of all fields with this name; a value that is not text is empty.
    fn fields<'c>(&'c self, name: &'c str) -> impl Iterator<Item = &'c str> {
        let named = self.0.headers.iter().filter(move |field| field.name.eq_ignore_ascii_case(name));
        named.map(|field| std::str::from_utf8(field.value).unwrap_or_default().trim())
    }

    fn field<'c>(&'c self, name: &'c str) -> Option<&'c str> {
        self.fields(name).next()
    }

    fn has_token(&self, name: &str, token: &str) -> bool {
        self.fields(name)
            .flat_map(|value| value.split(','))
            .any(|value| value.trim().eq_ignore_ascii_case(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "GET /chat HTTP/1.1\r\nHost: chat.example:8011\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
        Origin: http://chat.example:8011\r\n\r\n";

    /// The status line of the reply, and whether the connection closes.
    fn status(request: &str) -> (String, bool) {
        match reply(request.as_bytes()).expect("a complete request") {
            (Reply::Response { bytes, closes }, _) => {
                let text = String::from_utf8(bytes).unwrap();
                let (head, content) = text.split_once("\r\n\r\n").unwrap();
                assert!(
                    content.is_empty() || head.contains(&format!("Content-Length: {}\r\n", content.len()))
                );
                (head.split("\r\n").next().unwrap()["HTTP/1.1 ".len()..].to_owned(), closes)
            }
            (Reply::Upgrade(text), _) => {
                (text["HTTP/1.1 ".len()..].split("\r\n").next().unwrap().to_owned(), false)
            }
        }
    }

    #[test]
    fn the_page_is_served() {
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let (Reply::Response { bytes, closes: false }, length) =
            reply(format!("{request}GET").as_bytes()).unwrap()
        else {
            panic!("not a response that keeps the connection")
        };
        assert_eq!(length, request.len());
        assert!(bytes.ends_with(PAGE.as_bytes()));
        let Some((Reply::Response { bytes, .. }, _)) = reply(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n") else {
            panic!("no response")
        };
        assert!(bytes.ends_with(b"\r\n\r\n"));
        assert_eq!(
            status("GET /?a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"),
            ("200 OK".to_owned(), true)
        );
    }

    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        let (Reply::Upgrade(text), length) = reply(UPGRADE.as_bytes()).unwrap() else { panic!("no upgrade") };
        assert_eq!(length, UPGRADE.len());
        // RFC 6455, section 1.3.
        assert!(text.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\n"));
    }

    #[test]
    fn only_the_page_of_this_server_can_connect() {
        for (origin, expected) in [
            ("Origin: http://chat.example:8011\r\n", "101"),
            ("Origin: https://CHAT.example:8011\r\n", "101"),
            ("", "101"),
            ("Origin: http://chat.example\r\n", "403"),
            ("Origin: http://other.example:8011\r\n", "403"),
            ("Origin: null\r\n", "403"),
            ("Origin: http://chat.example:8011\r\nOrigin: http://other.example\r\n", "403"),
        ] {
            let request = UPGRADE.replace("Origin: http://chat.example:8011\r\n", origin);
            assert!(status(&request).0.starts_with(expected), "{origin}");
        }
    }

    #[test]
    fn requests_that_are_not_supported_are_refused() {
        for (part, replacement, expected) in [
            ("HTTP/1.1", "HTTP/1.0", "505"),
            ("GET", "POST", "405"),
            ("/chat", "/other", "404"),
            ("Upgrade: websocket\r\n", "", "426"),
            ("Upgrade: websocket", "Upgrade: h2c", "426"),
            ("keep-alive, Upgrade", "keep-alive", "426"),
            ("Version: 13", "Version: 8", "426"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "short==", "400"),
            ("Host: chat.example:8011\r\n", "", "400"),
            ("Host: chat.example:8011", "Host: chat.example:8011\r\nHost: other", "400"),
            ("Origin", "Content-Length: 5\r\nOrigin", "413"),
            ("Origin", "Transfer-Encoding: chunked\r\nOrigin", "413"),
            ("Host:", "Ho st:", "400"),
            ("GET", "\x01", "400"),
        ] {
            let (status, closes) = status(&UPGRADE.replacen(part, replacement, 1));
            assert!(status.starts_with(expected) && closes, "{replacement}: {status}");
        }
        let many = "A: b\r\n".repeat(MOST_FIELDS);
        assert!(status(&UPGRADE.replacen("Host", &format!("{many}Host"), 1)).0.starts_with("431"));
    }

    #[test]
    fn a_request_is_incomplete_until_its_last_byte_and_limited() {
        for end in 0..UPGRADE.len() {
            assert_eq!(reply(&UPGRADE.as_bytes()[..end]), None, "{end}");
        }
        let endless = format!("GET / HTTP/1.1\r\nHost: {}", "a".repeat(LONGEST_HEAD));
        assert_eq!(reply(&endless.as_bytes()[..LONGEST_HEAD - 1]), None);
        assert!(status(&endless).0.starts_with("431"));
    }
}
