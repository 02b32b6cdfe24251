use reveille::codec::Decoder;

use super::name::{decode, encode};
use super::*;

fn names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> =
        [&b"a"[..], b"a b", b"a\nb", b"100%", b"%41", b"\xff\xfe", b".hidden", b"...", b"a\\b", b"\r", b"-"]
            .map(<[u8]>::to_vec)
            .into();
    names.push(vec![b'n'; 255]);
    names.push((1..=255).filter(|byte| *byte != b'/').collect());
    names
}

#[test]
fn every_name_survives_a_line() {
    for name in names() {
        let text = encode(&name);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text}");
        assert_eq!(decode(text.as_bytes()), Ok(name.clone()));
        let joined = Name::new(b"dir").unwrap().join(&name).unwrap();
        let requests = [Request::List(joined.clone()), Request::Get { name: joined, offset: 7 }];
        for request in requests {
            let line = request.encode();
            assert_eq!(Request::parse(line.strip_suffix('\n').unwrap().as_bytes()), Ok(request));
        }
    }
    assert_eq!(Request::List(Name::default()).encode(), "LIST .\n");
    assert_eq!(Request::parse(b"LIST ."), Ok(Request::List(Name::default())));
}

#[test]
fn names_that_could_leave_the_root_are_refused() {
    for path in [
        "", "..", "../a", "a/..", "a/../b", "/", "/a", "a/", "a//b", "./a", "a/./b", "a\0b", "..%2f",
        "a/b/..",
    ] {
        let result = Name::new(path.as_bytes());
        assert_eq!(result.is_err(), path != "..%2f", "{path:?}");
    }
    for encoded in ["%2e%2e", "..%2fa", "a%2f..%2fb", "%2fa", "a%00", "%2e%2E/x"] {
        assert!(Request::parse(format!("LIST {encoded}").as_bytes()).is_err(), "{encoded}");
    }
    for component in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0", &[b'n'; 256]] {
        assert!(Name::default().join(component).is_err() && !is_component(component));
    }
    assert!(Name::new(&b"a/".repeat(199)[..397]).is_ok());
    assert!(Name::new(&[&b"a/".repeat(200)[..], b"a"].concat()).is_err(), "too deep");
    assert!(Name::new(&[b"a".repeat(255), b"/".to_vec()].concat().repeat(16)[..4095]).is_err(), "too long");
}

#[test]
fn names_are_divided_and_hidden_ones_are_found() {
    let name = |path: &[u8]| Name::new(path).unwrap();
    assert_eq!(name(b"a/b/c").split(), Some((&b"a/b"[..], &b"c"[..])));
    assert_eq!(name(b"c").split(), Some((&b""[..], &b"c"[..])));
    assert_eq!(Name::default().split(), None);
    assert!(name(b".a").is_hidden() && name(b"a/.b/c").is_hidden());
    assert!(!name(b"a.b/c.").is_hidden() && !Name::default().is_hidden());
}

#[test]
fn malformed_requests_are_refused() {
    for line in [
        "",
        "LIST",
        "LIST ",
        "LIST a b",
        "list a",
        "GET a",
        "GET a -1",
        "GET a +1",
        "GET a 1x",
        "GET a 1 2",
        "GET  a 1",
        "GET a 9223372036854775808",
        "GET a 99999999999999999999999",
        "LIST %",
        "LIST %4",
        "LIST %zz",
        "LIST a\tb",
        "LIST \u{e9}",
    ] {
        assert!(Request::parse(line.as_bytes()).is_err(), "{line:?}");
    }
    let largest = i64::MAX as u64;
    assert_eq!(
        Request::parse(b"GET a 9223372036854775807"),
        Ok(Request::Get { name: Name::new(b"a").unwrap(), offset: largest })
    );
}

fn replies() -> Vec<Reply> {
    let mut replies = vec![
        Reply::Hello,
        Reply::Directory(0),
        Reply::Directory(MAX_ENTRIES),
        Reply::File { length: 5, is_executable: false },
        Reply::File { length: 5, is_executable: true },
        Reply::Data { offset: 3, length: 3 },
        Reply::Sum(std::array::from_fn(|index| index as u8 * 8)),
        Reply::Changed,
    ];
    replies.extend(
        [Code::NotFound, Code::NotPermitted, Code::OutOfRange, Code::TooLarge, Code::Busy, Code::Failed]
            .map(Code::reply),
    );
    for name in names() {
        for kind in [
            Kind::File { length: 0, is_executable: false },
            Kind::File { length: i64::MAX as u64, is_executable: true },
            Kind::Directory,
            Kind::Other,
        ] {
            replies.push(Reply::Entry(Entry { name: name.clone(), kind }));
        }
    }
    replies
}

/// Decodes a stream that arrives in pieces of `step` bytes. Joins the bytes of files.
fn decoded(stream: &[u8], step: usize) -> Result<(Vec<Reply>, Vec<u8>), ProtocolError> {
    let (mut decoder, mut lines, mut bytes) = (Replies::new(), Vec::new(), Vec::new());
    let (mut start, mut end) = (0, 0);
    while end < stream.len() {
        end = (end + step).min(stream.len());
        while let Some((part, taken)) = decoder.decode(&stream[start..end])? {
            match part {
                Part::Line(reply) => lines.push(reply),
                Part::Bytes(part) => {
                    assert!(!part.is_empty());
                    bytes.extend_from_slice(part);
                }
            }
            assert!(taken > 0);
            start += taken;
        }
    }
    assert_eq!(start, stream.len(), "an incomplete line");
    Ok((lines, bytes))
}

#[test]
fn replies_survive_any_split_of_the_stream() {
    let mut stream: Vec<u8> = replies().iter().flat_map(|reply| reply.encode().into_bytes()).collect();
    let content = b"CHANGED\nnot a line\nERROR";
    let length = content.len() as u64 + 10;
    stream.extend(Reply::Data { offset: 10, length }.encode().bytes());
    stream.extend(content);
    stream.extend(Reply::Changed.encode().bytes());
    let mut expected = replies();
    expected.extend([Reply::Data { offset: 10, length }, Reply::Changed]);
    for step in [1, 2, 3, 7, 100, 4096, stream.len()] {
        assert_eq!(decoded(&stream, step), Ok((expected.clone(), content.to_vec())), "pieces of {step}");
    }
}

#[test]
fn a_hostile_server_is_refused() {
    for line in [
        "",
        "hello",
        "transfer 2",
        "DIRECTORY 100001",
        "DIRECTORY -1",
        "DIRECTORY",
        "dir ..",
        "dir .",
        "dir a%2fb",
        "dir /etc",
        "dir a%00",
        "dir",
        "dir ",
        "file 5 ../a",
        "file 5",
        "file a a",
        "exec 5 %2e%2e",
        "dir a b c",
        "DATA 5 4",
        "DATA 0",
        "DATA 0 9223372036854775808",
        "SHA256 00",
        "SHA256",
        "CHANGED 1",
        "SHA256 zz00000000000000000000000000000000000000000000000000000000000000",
    ] {
        assert!(decoded(format!("{line}\n").as_bytes(), 1000).is_err(), "{line:?}");
    }
    let endless = vec![b'a'; LONGEST_LINE + 2];
    assert!(decoded(&endless, endless.len()).is_err());
    // An unknown code, and control characters that a terminal would obey.
    let (lines, _) = decoded(b"ERROR teapot \x1b[2J\n", 100).unwrap();
    assert_eq!(lines, [Reply::Error { code: Code::Failed, text: "\\x1b[2J".to_owned() }]);
}
