//! The replies that do not depend on a request.

use std::hash::{BuildHasher, RandomState};

use super::{clock, pattern};

/// The maximum length of a datagram of chargen, by RFC 864.
const LONGEST_CHARGEN: usize = 512;

/// RFC 865 suggests fewer than 512 characters.
const QUOTES: [&str; 7] = [
    "A loop that waits for everything waits once.",
    "The edge is reported once; what it means is up to you to remember.",
    "A limit that is not written down is the memory of the machine.",
    "Half of a close is still an open connection.",
    "The slowest reader decides, unless you do.",
    "A timeout is a promise to the other clients.",
    "What was accepted is sent, or its loss is reported.",
];

/// The date and the time.
pub(crate) fn daytime() -> Vec<u8> {
    format!("{}\r\n", clock::daytime(clock::now())).into_bytes()
}

/// The quote of the day.
pub(crate) fn quote() -> Vec<u8> {
    let day = clock::now() / 86_400;
    format!("{}\r\n", QUOTES[(day % QUOTES.len() as u64) as usize]).into_bytes()
}

pub(crate) fn time() -> Vec<u8> {
    clock::time(clock::now()).to_vec()
}

/// One datagram of chargen: whole lines and a part of one, from a random line, of a random length
/// up to 512 bytes.
pub(crate) fn chargen() -> Vec<u8> {
    // The keys of each state are random.
    let random = RandomState::new().hash_one(0) as usize;
    let (line, length) = (random % pattern::LINES, random / pattern::LINES % (LONGEST_CHARGEN + 1));
    pattern::text(line * pattern::LINE, length)
}
