//! Interest of a channel, and the readiness that the kernel reports.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

/// The conditions that a [`Channel`](crate::io::Channel) waits for.
///
/// Interests combine with `|`. An empty interest ([`Interest::EMPTY`]) keeps the channel registered
/// but reports nothing, not even a hang-up of the other end.
///
/// ```
/// use reveille::io::Interest;
///
/// let both = Interest::READABLE | Interest::WRITABLE;
/// assert!(both.is_readable() && both.is_writable());
/// assert!(Interest::EMPTY.is_empty());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Interest(u8);

impl Interest {
    /// No conditions. The channel stays registered and costs nothing.
    pub const EMPTY: Interest = Interest(0);
    /// Data can be read, or the other end has closed its sending side.
    pub const READABLE: Interest = Interest(1);
    /// Data can be written, or a write would fail at once.
    pub const WRITABLE: Interest = Interest(2);
    /// An exceptional condition (`EPOLLPRI`): urgent data, or a pressure trigger of the kernel.
    pub const PRIORITY: Interest = Interest(4);

    /// Whether no condition is included.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether read readiness is included.
    pub const fn is_readable(self) -> bool {
        self.0 & Interest::READABLE.0 != 0
    }

    /// Whether write readiness is included.
    pub const fn is_writable(self) -> bool {
        self.0 & Interest::WRITABLE.0 != 0
    }

    /// Whether exceptional conditions are included.
    pub const fn is_priority(self) -> bool {
        self.0 & Interest::PRIORITY.0 != 0
    }
}

impl BitOr for Interest {
    type Output = Interest;

    fn bitor(self, other: Interest) -> Interest {
        Interest(self.0 | other.0)
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.is_readable(), "READABLE"),
            (self.is_writable(), "WRITABLE"),
            (self.is_priority(), "PRIORITY"),
        ];
        write_names(f, names.into_iter())
    }
}

/// The readiness of a descriptor as reported by the kernel.
///
/// A hint, not a guarantee: the operation may still return `WouldBlock`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Readiness(u8);

impl Readiness {
    pub(crate) const NONE: Readiness = Readiness(0);
    pub(crate) const READABLE: Readiness = Readiness(1);
    pub(crate) const WRITABLE: Readiness = Readiness(2);
    pub(crate) const READ_CLOSED: Readiness = Readiness(4);
    pub(crate) const WRITE_CLOSED: Readiness = Readiness(8);
    pub(crate) const ERROR: Readiness = Readiness(16);
    pub(crate) const PRIORITY: Readiness = Readiness(32);
    /// Not reported by the kernel: the source has deferred an event to a time when no callback is
    /// running.
    pub(crate) const SELF_WAKE: Readiness = Readiness(64);

    /// The readiness that satisfies `interest`. A closed direction counts as ready, since the next
    /// read or write reports the close to the caller.
    pub(crate) const fn satisfying(interest: Interest) -> Readiness {
        let mut bits = 0;
        if interest.is_readable() {
            bits |= Readiness::READABLE.0 | Readiness::READ_CLOSED.0;
        }
        if interest.is_writable() {
            bits |= Readiness::WRITABLE.0 | Readiness::WRITE_CLOSED.0;
        }
        if interest.is_priority() {
            bits |= Readiness::PRIORITY.0;
        }
        if !interest.is_empty() {
            bits |= Readiness::ERROR.0;
        }
        Readiness(bits)
    }

    pub(crate) const fn intersects(self, other: Readiness) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether a read is likely to return bytes or the end of input.
    pub const fn is_readable(self) -> bool {
        self.intersects(Readiness(Readiness::READABLE.0 | Readiness::READ_CLOSED.0))
    }

    /// Whether a write is likely to be accepted, or to fail at once.
    pub const fn is_writable(self) -> bool {
        self.intersects(Readiness(Readiness::WRITABLE.0 | Readiness::WRITE_CLOSED.0))
    }

    /// Whether the other end has closed its sending side. Bytes sent before may still be unread.
    /// Also set on a hang-up (`EPOLLHUP`).
    pub const fn is_read_closed(self) -> bool {
        self.intersects(Readiness::READ_CLOSED)
    }

    /// Whether the other end reads no more, so that writes are pointless. Also set on a hang-up
    /// (`EPOLLHUP`), such as at the read end of a pipe whose write end is closed.
    pub const fn is_write_closed(self) -> bool {
        self.intersects(Readiness::WRITE_CLOSED)
    }

    /// Whether the descriptor has a pending error.
    pub const fn is_error(self) -> bool {
        self.intersects(Readiness::ERROR)
    }

    /// Whether an exceptional condition is present (`EPOLLPRI`).
    pub const fn is_priority(self) -> bool {
        self.intersects(Readiness::PRIORITY)
    }
}

impl BitOr for Readiness {
    type Output = Readiness;

    fn bitor(self, other: Readiness) -> Readiness {
        Readiness(self.0 | other.0)
    }
}

impl BitOrAssign for Readiness {
    fn bitor_assign(&mut self, other: Readiness) {
        self.0 |= other.0;
    }
}

impl BitAnd for Readiness {
    type Output = Readiness;

    fn bitand(self, other: Readiness) -> Readiness {
        Readiness(self.0 & other.0)
    }
}

impl Not for Readiness {
    type Output = Readiness;

    fn not(self) -> Readiness {
        Readiness(!self.0)
    }
}

impl fmt::Debug for Readiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Readiness::READABLE, "READABLE"),
            (Readiness::WRITABLE, "WRITABLE"),
            (Readiness::READ_CLOSED, "READ_CLOSED"),
            (Readiness::WRITE_CLOSED, "WRITE_CLOSED"),
            (Readiness::ERROR, "ERROR"),
            (Readiness::PRIORITY, "PRIORITY"),
            (Readiness::SELF_WAKE, "SELF_WAKE"),
        ];
        write_names(f, names.into_iter().map(|(bit, name)| (self.intersects(bit), name)))
    }
}

fn write_names(f: &mut fmt::Formatter<'_>, names: impl Iterator<Item = (bool, &'static str)>) -> fmt::Result {
    let mut separator = "";
    for (_, name) in names.filter(|(holds, _)| *holds) {
        write!(f, "{separator}{name}")?;
        separator = " | ";
    }
    if separator.is_empty() { f.write_str("NONE") } else { Ok(()) }
}
