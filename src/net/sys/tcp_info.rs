//! Kernel queries on sockets: `TCP_INFO`, `SO_PEERCRED`, `SO_PASSRIGHTS` and `SIOCOUTQ`.
//!
//! rustix and socket2 have no safe call for these, or none that accepts every value the kernel
//! returns, so this file makes them through `libc`. Each `unsafe` block states what it relies on.

#![allow(
    unsafe_code,
    reason = "TCP_INFO, SO_PEERCRED of a peer without an id here, SO_PASSRIGHTS and SIOCOUTQ have no safe call"
)]

use std::fmt;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use libc::{c_int, c_ulong, c_void, socklen_t};

/// Larger than the structure of any kernel: 104 bytes in Linux 2.6, and 248 in 6.7.
const MAX_LEN: usize = 512;

/// The state of a TCP connection (RFC 9293).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TcpState {
    /// Both ends may send.
    Established,
    /// SYN sent, no SYN-ACK yet.
    SynSent,
    /// SYN received, final ACK outstanding.
    SynReceived,
    /// FIN sent, not acknowledged yet.
    FinWait1,
    /// FIN sent and acknowledged.
    FinWait2,
    /// Closed; the kernel waits for delayed segments.
    TimeWait,
    /// Closed.
    Close,
    /// FIN received; this end has not closed yet.
    CloseWait,
    /// FIN received, then FIN sent; the latter is not acknowledged yet.
    LastAck,
    /// A listening socket, not a connection.
    Listen,
    /// Both ends have sent a FIN at the same time.
    Closing,
    /// A state unknown to this crate, by its number.
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

/// The kernel's information on a connection (tcp(7), `TCP_INFO`), from
/// [`TcpConnection::tcp_info`](crate::TcpConnection::tcp_info).
///
/// The kernel measures times in microseconds, unless stated otherwise. Segments are TCP's packets.
/// Fields that later versions of Linux have added are `None` on older kernels.
///
/// ```
/// use reveille::{Buffer, ConnectionHandler, TcpConnection};
/// use std::io;
///
/// /// Logs the round-trip time and the loss of each peer.
/// struct Careful;
///
/// impl ConnectionHandler for Careful {
///     fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
///         let info = conn.tcp_info()?;
///         let peer = conn.peer_address();
///         log::debug!("{peer}: {:?} away, {} lost", info.rtt, info.total_retrans);
///         conn.send(input.take_all())?;
///         Ok(())
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpInfo {
    /// The connection's state.
    pub state: TcpState,
    /// Unsuccessful retransmissions of the oldest unacknowledged segment.
    pub retransmits: u8,
    /// Unanswered keep-alive or zero-window probes.
    pub probes: u8,
    /// Retransmission timeout.
    pub rto: Duration,
    /// Maximum segment size for sending, in bytes.
    pub snd_mss: u32,
    /// Largest segment received, as estimated, in bytes.
    pub rcv_mss: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Of those, segments that were received out of order.
    pub sacked: u32,
    /// Of those, segments considered lost.
    pub lost: u32,
    /// Of those, segments that were retransmitted.
    pub retrans: u32,
    /// Time since data was last sent, in milliseconds.
    pub last_data_sent: Duration,
    /// Time since data was last received, in milliseconds.
    pub last_data_recv: Duration,
    /// Time since an acknowledgement was last received, in milliseconds.
    pub last_ack_recv: Duration,
    /// Path MTU: the largest packet that the path allows, in bytes.
    pub pmtu: u32,
    /// Smoothed round-trip time. Zero until one has been measured.
    pub rtt: Duration,
    /// Variation of the round-trip time.
    pub rttvar: Duration,
    /// Slow-start threshold, in segments in flight. Above it the congestion window grows slowly.
    pub snd_ssthresh: u32,
    /// Congestion window: the maximum number of segments in flight.
    pub snd_cwnd: u32,
    /// Round-trip time as estimated by the receiver; zero if unknown.
    pub rcv_rtt: Duration,
    /// Bytes that may arrive within a round trip, as estimated.
    pub rcv_space: u32,
    /// Segments retransmitted since the connection was established.
    pub total_retrans: u32,
    /// Pacing rate, in bytes per second; `None` also if the kernel does not pace. Linux 3.15.
    pub pacing_rate: Option<u64>,
    /// Bytes that the peer has acknowledged. The SYN and the FIN count as one each. Linux 4.1.
    pub bytes_acked: Option<u64>,
    /// Bytes received in order. The peer's FIN counts as one. Linux 4.1.
    pub bytes_received: Option<u64>,
    /// Segments sent, including empty ones. Linux 4.2.
    pub segs_out: Option<u32>,
    /// Segments received, including empty ones. Linux 4.2.
    pub segs_in: Option<u32>,
    /// Bytes accepted by the kernel and not sent yet (`SIOCOUTQNSD`). Linux 4.6.
    pub notsent_bytes: Option<u32>,
    /// Shortest recent round-trip time; `None` also until one has been measured. Linux 4.6.
    pub min_rtt: Option<Duration>,
    /// Recent delivery rate to the peer, in bytes per second. Linux 4.9.
    pub delivery_rate: Option<u64>,
    /// Time with data to send. Linux 4.10.
    pub busy_time: Option<Duration>,
    /// Of that, time limited by the peer's receive window. Linux 4.10.
    pub rwnd_limited: Option<Duration>,
    /// Of that, time limited by a small send buffer. Linux 4.10.
    pub sndbuf_limited: Option<Duration>,
    /// Bytes of data sent, including retransmissions. Linux 4.19.
    pub bytes_sent: Option<u64>,
    /// Bytes of data retransmitted. Linux 4.19.
    pub bytes_retrans: Option<u64>,
    /// The peer's advertised receive window, in bytes. Linux 5.4.
    pub snd_wnd: Option<u32>,
}

// Offsets of the fields that libc's `tcp_info`, which is that of Linux 2.6, does not have
// (linux/tcp.h). The kernel only ever appends fields.
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

/// The bytes of an option that the kernel has written. A field beyond them is `None`.
struct OptionValue<'a>(&'a [u8]);

impl OptionValue<'_> {
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
    /// The error of getsockopt(2) if the descriptor is not a TCP socket.
    pub(crate) fn of(socket: impl AsFd) -> io::Result<TcpInfo> {
        let mut value = [0; MAX_LEN];
        let length = get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut value)?;
        let short = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's tcp_info is too short");
        TcpInfo::read(&OptionValue(&value[..length])).ok_or_else(short)
    }

    /// Returns `None` if even the fields that every kernel has are incomplete.
    fn read(value: &OptionValue<'_>) -> Option<TcpInfo> {
        use libc::tcp_info as first;
        Some(TcpInfo {
            state: value.u8(offset_of!(first, tcpi_state))?.into(),
            retransmits: value.u8(offset_of!(first, tcpi_retransmits))?,
            probes: value.u8(offset_of!(first, tcpi_probes))?,
            rto: value.micros(offset_of!(first, tcpi_rto))?,
            snd_mss: value.u32(offset_of!(first, tcpi_snd_mss))?,
            rcv_mss: value.u32(offset_of!(first, tcpi_rcv_mss))?,
            unacked: value.u32(offset_of!(first, tcpi_unacked))?,
            sacked: value.u32(offset_of!(first, tcpi_sacked))?,
            lost: value.u32(offset_of!(first, tcpi_lost))?,
            retrans: value.u32(offset_of!(first, tcpi_retrans))?,
            last_data_sent: value.millis(offset_of!(first, tcpi_last_data_sent))?,
            last_data_recv: value.millis(offset_of!(first, tcpi_last_data_recv))?,
            last_ack_recv: value.millis(offset_of!(first, tcpi_last_ack_recv))?,
            pmtu: value.u32(offset_of!(first, tcpi_pmtu))?,
            rtt: value.micros(offset_of!(first, tcpi_rtt))?,
            rttvar: value.micros(offset_of!(first, tcpi_rttvar))?,
            snd_ssthresh: value.u32(offset_of!(first, tcpi_snd_ssthresh))?,
            snd_cwnd: value.u32(offset_of!(first, tcpi_snd_cwnd))?,
            rcv_rtt: value.micros(offset_of!(first, tcpi_rcv_rtt))?,
            rcv_space: value.u32(offset_of!(first, tcpi_rcv_space))?,
            total_retrans: value.u32(offset_of!(first, tcpi_total_retrans))?,
            // All bits set means no value.
            pacing_rate: value.u64(later::PACING_RATE).filter(|rate| *rate != u64::MAX),
            bytes_acked: value.u64(later::BYTES_ACKED),
            bytes_received: value.u64(later::BYTES_RECEIVED),
            segs_out: value.u32(later::SEGS_OUT),
            segs_in: value.u32(later::SEGS_IN),
            notsent_bytes: value.u32(later::NOTSENT_BYTES),
            min_rtt: value
                .micros(later::MIN_RTT)
                .filter(|rtt| *rtt != Duration::from_micros(u32::MAX.into())),
            delivery_rate: value.u64(later::DELIVERY_RATE),
            busy_time: value.long_micros(later::BUSY_TIME),
            rwnd_limited: value.long_micros(later::RWND_LIMITED),
            sndbuf_limited: value.long_micros(later::SNDBUF_LIMITED),
            bytes_sent: value.u64(later::BYTES_SENT),
            bytes_retrans: value.u64(later::BYTES_RETRANS),
            snd_wnd: value.u32(later::SND_WND),
        })
    }
}

/// Returns the process, user and group id of the peer of a Unix socket (`SO_PEERCRED`, unix(7)).
/// The process id is 0 if the peer has none in this process's PID namespace. The safe calls return
/// a type that cannot represent 0.
///
/// # Errors
/// The error of getsockopt(2).
pub(crate) fn peer_credentials(socket: impl AsFd) -> io::Result<[u32; 3]> {
    let mut value = [0; size_of::<libc::ucred>()];
    let length = get_option(socket, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut value)?;
    let value = OptionValue(&value[..length]);
    let fields = [offset_of!(libc::ucred, pid), offset_of!(libc::ucred, uid), offset_of!(libc::ucred, gid)];
    match fields.map(|at| value.u32(at)) {
        [Some(pid), Some(uid), Some(gid)] => Ok([pid, uid, gid]),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "the kernel's ucred is too short")),
    }
}

/// Sets whether a Unix socket accepts descriptors (`SO_PASSRIGHTS`, since Linux 6.16). If it does
/// not, a peer that sends some gets EPERM, and the kernel keeps none of them.
///
/// # Errors
/// The error of setsockopt(2): ENOPROTOOPT on an older kernel.
pub(crate) fn set_pass_rights(socket: impl AsFd, passes: bool) -> io::Result<()> {
    /// From the kernel's include/uapi/asm-generic/socket.h; libc does not define it yet.
    const SO_PASSRIGHTS: c_int = if cfg!(target_arch = "sparc64") { 0x5c } else { 83 };
    let fd = socket.as_fd().as_raw_fd();
    let value = c_int::from(passes);
    let length = size_of::<c_int>() as socklen_t;
    // SAFETY: `fd` is open, since `socket` is borrowed for longer than the call. The kernel reads
    // one `int` through the pointer, which is to a local `c_int`, and `length` is its size. The
    // kernel does not keep the pointer.
    let result = unsafe {
        libc::setsockopt(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const value).cast::<c_void>(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option. Returns how many bytes of `value` the kernel has written.
fn get_option(socket: impl AsFd, level: c_int, option: c_int, value: &mut [u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    let capacity = socklen_t::try_from(value.len()).unwrap_or(socklen_t::MAX);
    let mut length = capacity;
    // SAFETY: `fd` is open, since `socket` is borrowed for longer than the call. `value` is
    // writable for its length. `length` passes at most that length to the kernel, which writes no
    // more; any byte is a valid `u8`. `length` is a local `socklen_t`. The kernel keeps neither
    // pointer.
    let result =
        unsafe { libc::getsockopt(fd, level, option, value.as_mut_ptr().cast::<c_void>(), &raw mut length) };
    if result == 0 { Ok(length.min(capacity) as usize) } else { Err(io::Error::last_os_error()) }
}

/// Returns the number of bytes that the kernel has accepted for sending and the peer has not
/// acknowledged, sent or unsent (`SIOCOUTQ`, tcp(7)). A FIN that was requested counts as one until
/// it is acknowledged too.
///
/// # Errors
/// The error of ioctl(2): [`InvalidInput`](io::ErrorKind::InvalidInput) for a listening socket.
pub(crate) fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    /// Linux defines SIOCOUTQ as the number of TIOCOUTQ on every architecture.
    const SIOCOUTQ: c_ulong = libc::TIOCOUTQ as c_ulong;
    let fd = socket.as_fd().as_raw_fd();
    let mut bytes: c_int = 0;
    // SAFETY: `fd` is open, since `socket` is borrowed for longer than the call. For a socket, and
    // for a terminal, this request writes one `int` through the pointer, which is to a local
    // `c_int`. For any other descriptor it fails and writes nothing.
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
