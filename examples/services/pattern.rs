//! The text of chargen (RFC 864): lines of 72 printable characters. Each line starts one character
//! later than the line before, so the text repeats after 95 lines.

/// The characters of a line.
const WIDTH: usize = 72;

/// The length of a line with its end.
pub(crate) const LINE: usize = WIDTH + 2;

/// The number of printable characters, and of different lines.
pub(crate) const LINES: usize = 95;

/// The length after which the text repeats.
pub(crate) const PERIOD: usize = LINES * LINE;

/// The byte of the text at `position`.
pub(crate) fn byte(position: usize) -> u8 {
    let (line, column) = (position / LINE, position % LINE);
    match column {
        ..WIDTH => b' ' + ((line + column) % LINES) as u8,
        WIDTH => b'\r',
        _ => b'\n',
    }
}

/// `length` bytes of the text from `position`.
pub(crate) fn text(position: usize, length: usize) -> Vec<u8> {
    (position..position + length).map(byte).collect()
}
