//! What the kernel knows of a TCP connection, asked for.
//!
//! The crates below have no call for these questions, or none that takes every answer, so they are put to the kernel here, through
//! `libc`: also the one that Unix sockets are asked, who is at the other end. This file,
//! `src/event_loop/tasks/task.rs` and `src/file_io/backend/uring.rs` are the only ones with `unsafe`; each block says what it rests on.

#![allow(
    unsafe_code,
    reason = "getsockopt(TCP_INFO), SO_PEERCRED of a peer without a number here and ioctl(SIOCOUTQ) have no safe face"
)]

use std::fmt;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use libc::{c_int, c_ulong, c_void, socklen_t};

/// More than any kernel has to say: it was 104 bytes in Linux 2.6, and 248 in 6.7.
const ROOM: usize = 512;

/// How far a TCP connection is, in the words of RFC 9293.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpState {
    /// Both ends may send.
    Established,
    /// This end has called, and no answer has come.
    SynSent,
    /// The other end has called, and has not heard the answer.
    SynReceived,
    /// This end has finished, and the other has not acknowledged it.
    FinWait1,
    /// This end has finished, and the other knows.
    FinWait2,
    /// Over; the kernel waits for stragglers.
    TimeWait,
    /// Over.
    Close,
    /// The other end has finished.
    CloseWait,
    /// The other end has finished, and so has this one, which the other has not acknowledged.
    LastAck,
    /// Not a connection.
    Listen,
    /// Both have finished at the same time.
    Closing,
    /// One that is not known here, by its number.
    Other(u8),
}

impl From<u8> for TcpState {
    fn from(number: u8) -> TcpState {
        match number {
            1 => TcpState::Established,
            2 => TcpState::SynSent,
            3 => TcpState::SynReceived,
            4 => TcpState::FinWait1,
            5 => TcpState::FinWait2,
            6 => TcpState::TimeWait,
            7 => TcpState::Close,
            8 => TcpState::CloseWait,
            9 => TcpState::LastAck,
            10 => TcpState::Listen,
            11 => TcpState::Closing,
            other => TcpState::Other(other),
        }
    }
}

/// What the kernel knows of a connection (tcp(7), `TCP_INFO`), from
/// [`TcpConnection::tcp_info`](crate::TcpConnection::tcp_info).
///
/// Times are measured by the kernel, in microseconds unless told otherwise. Segments are packets as TCP counts them. What later
/// versions of Linux have added is `None` where the kernel does not know it.
///
/// ```
/// use reveille::{Buffer, ConnectionHandler, TcpConnection};
/// use std::io;
///
/// /// Sends less to those who are far away.
/// struct Careful;
///
/// impl ConnectionHandler for Careful {
///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
///         let info = conn.tcp_info()?;
///         log::debug!("{}: {:?} away, {} lost", conn.peer(), info.rtt, info.total_retrans);
///         conn.send(input.take_all())?;
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// How far the connection is.
    pub state: TcpState,
    /// How often the oldest unacknowledged segment has been sent again without success.
    pub retransmits: u8,
    /// Unanswered questions whether the peer is there, of keep-alive or for a closed window.
    pub probes: u8,
    /// How long the kernel waits for an acknowledgement before it sends again.
    pub rto: Duration,
    /// The largest segment that this end sends, in bytes.
    pub snd_mss: u32,
    /// The largest segment that has come, as estimated, in bytes.
    pub rcv_mss: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Of those, segments that have come out of order.
    pub sacked: u32,
    /// Of those, segments that are taken for lost.
    pub lost: u32,
    /// Of those, segments that have been sent again.
    pub retrans: u32,
    /// Since data was last sent. To the millisecond.
    pub last_data_sent: Duration,
    /// Since data last came. To the millisecond.
    pub last_data_recv: Duration,
    /// Since an acknowledgement last came. To the millisecond.
    pub last_ack_recv: Duration,
    /// The largest packet that the way allows, in bytes.
    pub pmtu: u32,
    /// The round-trip time, smoothed. Zero while none has been measured.
    pub rtt: Duration,
    /// How much the round-trip time varies.
    pub rttvar: Duration,
    /// The segments in flight from which on the window grows slowly.
    pub snd_ssthresh: u32,
    /// The congestion window: how many segments may be in flight.
    pub snd_cwnd: u32,
    /// The round-trip time as the receiver estimates it; zero if it could not.
    pub rcv_rtt: Duration,
    /// How many bytes may come within a round trip, as estimated.
    pub rcv_space: u32,
    /// Segments sent again since the connection was made.
    pub total_retrans: u32,
    /// At how many bytes a second the kernel spaces what it sends; `None` also where it does not space it. Linux 3.15.
    pub pacing_rate: Option<u64>,
    /// Bytes that the peer has acknowledged; the beginning and the end of the stream count as one each. Linux 4.1.
    pub bytes_acked: Option<u64>,
    /// Bytes received in order; the peer's end counts as one. Linux 4.1.
    pub bytes_received: Option<u64>,
    /// Segments sent, empty ones included. Linux 4.2.
    pub segs_out: Option<u32>,
    /// Segments received, empty ones included. Linux 4.2.
    pub segs_in: Option<u32>,
    /// Bytes that the kernel has taken and not sent yet (`SIOCOUTQNSD`). Linux 4.6.
    pub notsent_bytes: Option<u32>,
    /// The shortest round-trip time of the last while; `None` also while none has been measured. Linux 4.6.
    pub min_rtt: Option<Duration>,
    /// How many bytes a second have lately reached the peer. Linux 4.9.
    pub delivery_rate: Option<u64>,
    /// How long there has been something to send. Linux 4.10.
    pub busy_time: Option<Duration>,
    /// Of that, how long the peer's window was what held it up. Linux 4.10.
    pub rwnd_limited: Option<Duration>,
    /// Of that, how long a small send buffer was what held it up. Linux 4.10.
    pub sndbuf_limited: Option<Duration>,
    /// Bytes of data sent, those that were sent again included. Linux 4.19.
    pub bytes_sent: Option<u64>,
    /// Bytes of data sent again. Linux 4.19.
    pub bytes_retrans: Option<u64>,
    /// The window that the peer allows, in bytes. Linux 5.4.
    pub snd_wnd: Option<u32>,
}

// Where the fields stand that libc's `tcp_info`, which is that of Linux 2.6, does not have: linux/tcp.h. The kernel only ever
// adds to the end.
mod later {
    pub(in crate::net) const PACING_RATE: usize = 104;
    pub(in crate::net) const BYTES_ACKED: usize = 120;
    pub(in crate::net) const BYTES_RECEIVED: usize = 128;
    pub(in crate::net) const SEGS_OUT: usize = 136;
    pub(in crate::net) const SEGS_IN: usize = 140;
    pub(in crate::net) const NOTSENT_BYTES: usize = 144;
    pub(in crate::net) const MIN_RTT: usize = 148;
    pub(in crate::net) const DELIVERY_RATE: usize = 160;
    pub(in crate::net) const BUSY_TIME: usize = 168;
    pub(in crate::net) const RWND_LIMITED: usize = 176;
    pub(in crate::net) const SNDBUF_LIMITED: usize = 184;
    pub(in crate::net) const BYTES_SENT: usize = 200;
    pub(in crate::net) const BYTES_RETRANS: usize = 208;
    pub(in crate::net) const SND_WND: usize = 228;
}

/// The kernel's answer, as far as it goes.
struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at + N)?.try_into().ok()
    }

    fn u8(&self, at: usize) -> Option<u8> {
        self.bytes(at).map(u8::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_ne_bytes)
    }

    fn u64(&self, at: usize) -> Option<u64> {
        self.bytes(at).map(u64::from_ne_bytes)
    }

    fn micros(&self, at: usize) -> Option<Duration> {
        self.u32(at).map(|micros| Duration::from_micros(micros.into()))
    }

    fn millis(&self, at: usize) -> Option<Duration> {
        self.u32(at).map(|millis| Duration::from_millis(millis.into()))
    }

    fn long_micros(&self, at: usize) -> Option<Duration> {
        self.u64(at).map(Duration::from_micros)
    }
}

impl TcpInfo {
    /// # Errors
    /// What the kernel says of a descriptor that is no TCP socket.
    pub(crate) fn of(socket: impl AsFd) -> io::Result<TcpInfo> {
        let mut answer = [0; ROOM];
        let length = ask(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut answer)?;
        let short = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's tcp_info is too short");
        TcpInfo::read(&Answer(&answer[..length])).ok_or_else(short)
    }

    /// `None` if not even that is there which every kernel has.
    fn read(answer: &Answer<'_>) -> Option<TcpInfo> {
        use libc::tcp_info as first;
        Some(TcpInfo {
            state: answer.u8(offset_of!(first, tcpi_state))?.into(),
            retransmits: answer.u8(offset_of!(first, tcpi_retransmits))?,
            probes: answer.u8(offset_of!(first, tcpi_probes))?,
            rto: answer.micros(offset_of!(first, tcpi_rto))?,
            snd_mss: answer.u32(offset_of!(first, tcpi_snd_mss))?,
            rcv_mss: answer.u32(offset_of!(first, tcpi_rcv_mss))?,
            unacked: answer.u32(offset_of!(first, tcpi_unacked))?,
            sacked: answer.u32(offset_of!(first, tcpi_sacked))?,
            lost: answer.u32(offset_of!(first, tcpi_lost))?,
            retrans: answer.u32(offset_of!(first, tcpi_retrans))?,
            last_data_sent: answer.millis(offset_of!(first, tcpi_last_data_sent))?,
            last_data_recv: answer.millis(offset_of!(first, tcpi_last_data_recv))?,
            last_ack_recv: answer.millis(offset_of!(first, tcpi_last_ack_recv))?,
            pmtu: answer.u32(offset_of!(first, tcpi_pmtu))?,
            rtt: answer.micros(offset_of!(first, tcpi_rtt))?,
            rttvar: answer.micros(offset_of!(first, tcpi_rttvar))?,
            snd_ssthresh: answer.u32(offset_of!(first, tcpi_snd_ssthresh))?,
            snd_cwnd: answer.u32(offset_of!(first, tcpi_snd_cwnd))?,
            rcv_rtt: answer.micros(offset_of!(first, tcpi_rcv_rtt))?,
            rcv_space: answer.u32(offset_of!(first, tcpi_rcv_space))?,
            total_retrans: answer.u32(offset_of!(first, tcpi_total_retrans))?,
            // What has all bits set is the kernel's word for none.
            pacing_rate: answer.u64(later::PACING_RATE).filter(|rate| *rate != u64::MAX),
            bytes_acked: answer.u64(later::BYTES_ACKED),
            bytes_received: answer.u64(later::BYTES_RECEIVED),
            segs_out: answer.u32(later::SEGS_OUT),
            segs_in: answer.u32(later::SEGS_IN),
            notsent_bytes: answer.u32(later::NOTSENT_BYTES),
            min_rtt: answer
                .micros(later::MIN_RTT)
                .filter(|rtt| *rtt != Duration::from_micros(u32::MAX.into())),
            delivery_rate: answer.u64(later::DELIVERY_RATE),
            busy_time: answer.long_micros(later::BUSY_TIME),
            rwnd_limited: answer.long_micros(later::RWND_LIMITED),
            sndbuf_limited: answer.long_micros(later::SNDBUF_LIMITED),
            bytes_sent: answer.u64(later::BYTES_SENT),
            bytes_retrans: answer.u64(later::BYTES_RETRANS),
            snd_wnd: answer.u32(later::SND_WND),
        })
    }
}

/// Process, user and group at the other end of a Unix socket (`SO_PEERCRED`, unix(7)). The process is 0 if it has no number in this
/// process's namespace, for which a type that cannot be 0 has no room.
///
/// # Errors
/// What the kernel says.
pub(crate) fn peer_credentials(socket: impl AsFd) -> io::Result<[u32; 3]> {
    let mut answer = [0; size_of::<libc::ucred>()];
    let length = ask(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut answer)?;
    let answer = Answer(&answer[..length]);
    let fields = [offset_of!(libc::ucred, pid), offset_of!(libc::ucred, uid), offset_of!(libc::ucred, gid)];
    match fields.map(|at| answer.u32(at)) {
        [Some(pid), Some(uid), Some(gid)] => Ok([pid, uid, gid]),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's ucred is too short")),
    }
}

/// Whether a Unix socket takes descriptors (`SO_PASSRIGHTS`, since Linux 6.16). A peer that sends some to one that does not has EPERM, and
/// the kernel keeps none of them.
///
/// # Errors
/// What the kernel says; ENOPROTOOPT if it is older.
pub(crate) fn set_pass_rights(socket: impl AsFd, passes: bool) -> io::Result<()> {
    /// From the kernel's include/uapi/asm-generic/socket.h; libc has no name for it yet.
    const SO_PASSRIGHTS: c_int = if cfg!(target_arch = "sparc64") { 0x5c } else { 83 };
    let fd = socket.as_fd().as_raw_fd();
    let value = c_int::from(passes);
    let length = size_of::<c_int>() as socklen_t;
    // SAFETY: `fd` is open, since `socket` is borrowed for longer than the call. The kernel reads one `int` through the pointer, which is to
    // one of this function's own, and is told its size. The pointer is not kept.
    let result = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const value).cast::<c_void>(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks for an option. Answers how much of `answer` the kernel has written.
fn ask(socket: impl AsFd, level: c_int, option: c_int, answer: &mut [u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    let room = socklen_t::try_from(answer.len()).unwrap_or(socklen_t::MAX);
    let mut length = room;
    // SAFETY: `fd` is open, since `socket` is borrowed for longer than the call. `answer` is writable for its length, of which
    // the kernel is told no more than there is, and it writes no more than it is told; any byte is a valid `u8`. `length` is a
    // `socklen_t` of this function's own. Neither pointer is kept.
    let result =
        unsafe { libc::getsockopt(fd, level, option, answer.as_mut_ptr().cast::<c_void>(), &raw mut length) };
    if result == 0 { Ok(length.min(room) as usize) } else { Err(io::Error::last_os_error()) }
}

/// How many bytes the kernel has taken for sending and the peer has not acknowledged (`SIOCOUTQ`, tcp(7)), sent or not. A FIN that
/// has been asked for counts as one until it is acknowledged as well.
///
/// # Errors
/// What the kernel says: [`InvalidInput`](io::ErrorKind::InvalidInput) for a socket that listens.
pub(crate) fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    /// The number that Linux has for SIOCOUTQ on every architecture is that of TIOCOUTQ.
    const SIOCOUTQ: c_ulong = libc::TIOCOUTQ as c_ulong;
    let fd = socket.as_fd().as_raw_fd();
    let mut bytes: c_int = 0;
    // SAFETY: `fd` is open, since `socket` is borrowed for longer than the call. What the call means by this number for a socket,
    // and for a terminal should it be one, is to write one `int` through the pointer, which is to one of this function's own.
    // Anything else answers with an error and writes nothing.
    let result = unsafe { libc::ioctl(fd, SIOCOUTQ as _, &raw mut bytes) };
    if result == 0 { Ok(u32::try_from(bytes).unwrap_or(0)) } else { Err(io::Error::last_os_error()) }
}

impl fmt::Display for TcpState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
