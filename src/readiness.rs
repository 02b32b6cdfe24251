//! What a channel waits for, and what the kernel reports of it.

use std::fmt;
use std::ops::{BitAnd, BitOr, BitOrAssign, Not};

/// What a [`Channel`](crate::Channel) waits for.
///
/// Interests combine with `|`. An empty interest ([`Interest::EMPTY`]) keeps the channel but asks for nothing, not even for the
/// news that the other end has gone.
///
/// ```
/// use reveille::Interest;
///
/// let both = Interest::READABLE | Interest::WRITABLE;
/// assert!(both.is_readable() && both.is_writable());
/// assert!(Interest::EMPTY.is_none());
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Interest(u8);

impl Interest {
    /// Nothing: the channel stays registered in name only, and costs nothing.
    pub const EMPTY: Interest = Interest(0);
    /// There is something to read, or the other end will send no more.
    pub const READABLE: Interest = Interest(1);
    /// There is room to write, or writing has become pointless.
    pub const WRITABLE: Interest = Interest(2);
    /// An exceptional condition (`EPOLLPRI`): urgent data, or a pressure trigger of the kernel.
    pub const PRIORITY: Interest = Interest(4);

    /// Whether this asks for nothing.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether this asks for something to read.
    pub const fn is_readable(self) -> bool {
        self.0 & Interest::READABLE.0 != 0
    }

    /// Whether this asks for room to write.
    pub const fn is_writable(self) -> bool {
        self.0 & Interest::WRITABLE.0 != 0
    }

    /// Whether this asks for exceptional conditions.
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

/// What the kernel has said of a descriptor.
///
/// A hint, never a promise: the operation itself may still find that it would block.
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
    /// Not from the kernel: the source has left itself a note, to be read when no callback is under way.
    pub(crate) const SELF_WAKE: Readiness = Readiness(64);

    /// The readiness that answers to `interest`: the end of a direction counts as readiness for it, since the read or write
    /// that follows is what tells the caller.
    pub(crate) const fn answering(interest: Interest) -> Readiness {
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

    /// Whether a read is likely to give bytes, or the end of input.
    pub const fn is_readable(self) -> bool {
        self.intersects(Readiness(Readiness::READABLE.0 | Readiness::READ_CLOSED.0))
    }

    /// Whether a write is likely to be taken, or to fail at once.
    pub const fn is_writable(self) -> bool {
        self.intersects(Readiness(Readiness::WRITABLE.0 | Readiness::WRITE_CLOSED.0))
    }

    /// Whether the other end will send no more. Bytes sent before may still be there to read.
    pub const fn is_read_closed(self) -> bool {
        self.intersects(Readiness::READ_CLOSED)
    }

    /// Whether nothing that is written will be read any more.
    pub const fn is_write_closed(self) -> bool {
        self.intersects(Readiness::WRITE_CLOSED)
    }

    /// Whether the descriptor has an error pending.
    pub const fn is_error(self) -> bool {
        self.intersects(Readiness::ERROR)
    }

    /// Whether an exceptional condition holds (`EPOLLPRI`).
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
