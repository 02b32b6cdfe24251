use super::*;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (caller, listener.accept().unwrap().0)
}

/// An answer in which each field says where it stands.
fn numbered(length: usize) -> Vec<u8> {
    (0..length).map(|at| at as u8).collect()
}

fn u32_at(at: usize) -> u32 {
    u32::from_ne_bytes([at as u8, at as u8 + 1, at as u8 + 2, at as u8 + 3])
}

#[test]
fn fields_are_read_from_where_the_kernel_has_them() {
    let bytes = numbered(248);
    let info = TcpInfo::read(&Answer(&bytes)).unwrap();
    // By linux/tcp.h.
    assert_eq!((info.state, info.retransmits, info.probes), (TcpState::Other(0), 2, 3));
    assert_eq!(info.rto, Duration::from_micros(u32_at(8).into()));
    assert_eq!((info.snd_mss, info.rcv_mss), (u32_at(16), u32_at(20)));
    assert_eq!(
        (info.unacked, info.sacked, info.lost, info.retrans),
        (u32_at(24), u32_at(28), u32_at(32), u32_at(36))
    );
    assert_eq!(info.last_data_sent, Duration::from_millis(u32_at(44).into()));
    assert_eq!(info.last_data_recv, Duration::from_millis(u32_at(52).into()));
    assert_eq!(info.last_ack_recv, Duration::from_millis(u32_at(56).into()));
    assert_eq!(info.pmtu, u32_at(60));
    assert_eq!(info.rtt, Duration::from_micros(u32_at(68).into()));
    assert_eq!(info.rttvar, Duration::from_micros(u32_at(72).into()));
    assert_eq!((info.snd_ssthresh, info.snd_cwnd), (u32_at(76), u32_at(80)));
    assert_eq!(info.total_retrans, u32_at(100));
    assert_eq!(info.notsent_bytes, Some(u32_at(144)));
    assert_eq!(info.min_rtt, Some(Duration::from_micros(u32_at(148).into())));
    assert_eq!(info.snd_wnd, Some(u32_at(228)));
    let u64_at = |at: usize| {
        let [low, high] = [u32_at(at).to_ne_bytes(), u32_at(at + 4).to_ne_bytes()];
        u64::from_ne_bytes([low, high].concat().try_into().unwrap())
    };
    assert_eq!((info.bytes_acked, info.bytes_received), (Some(u64_at(120)), Some(u64_at(128))));
    assert_eq!((info.bytes_sent, info.bytes_retrans), (Some(u64_at(200)), Some(u64_at(208))));
}

#[test]
fn what_an_older_kernel_does_not_say_is_none_and_what_a_newer_one_adds_is_left_alone() {
    let bytes = numbered(ROOM);
    let newest = TcpInfo::read(&Answer(&bytes)).unwrap();
    assert_eq!(newest, TcpInfo::read(&Answer(&bytes[..232])).unwrap());
    // Linux 2.6, and one that ends in the middle of a field.
    let oldest = TcpInfo::read(&Answer(&bytes[..104])).unwrap();
    assert_eq!((oldest.total_retrans, oldest.pacing_rate, oldest.snd_wnd), (u32_at(100), None, None));
    let cut = TcpInfo::read(&Answer(&bytes[..150])).unwrap();
    assert_eq!((cut.notsent_bytes, cut.min_rtt), (Some(u32_at(144)), None));
    for length in 0..104 {
        assert_eq!(TcpInfo::read(&Answer(&bytes[..length])), None, "{length} bytes");
    }
}

#[test]
fn all_bits_set_stand_for_none() {
    let info = TcpInfo::read(&Answer(&[0xFF; 248])).unwrap();
    assert_eq!((info.min_rtt, info.pacing_rate), (None, None));
    assert_eq!(info.notsent_bytes, Some(u32::MAX));
}

#[test]
fn an_answer_for_which_there_is_too_little_room_is_cut() {
    let (caller, _answerer) = pair();
    for room in [0, 1, 7, 104, 150] {
        let mut answer = vec![0xAA; room + 8];
        assert_eq!(ask(&caller, libc::IPPROTO_TCP, libc::TCP_INFO, &mut answer[..room]).unwrap(), room);
        assert_eq!(answer[room..], [0xAA; 8], "behind the room");
    }
}

#[test]
fn a_connection_on_the_loopback_is_described() {
    let (mut caller, mut answerer) = pair();
    let sent = vec![7; 30_000];
    caller.write_all(&sent).unwrap();
    answerer.read_exact(&mut vec![0; sent.len()]).unwrap();
    let info = TcpInfo::of(&caller).unwrap();
    assert_eq!(info.state, TcpState::Established);
    assert!(info.snd_mss > 500 && info.pmtu > info.snd_mss, "{info:?}");
    assert!(info.snd_cwnd > 0 && info.rto > info.rtt, "{info:?}");
    // Kernels as old as that have no say here.
    assert!(info.bytes_sent.is_none_or(|bytes| bytes == sent.len() as u64), "{info:?}");
    let received = TcpInfo::of(&answerer).unwrap().bytes_received;
    assert!(received.is_none_or(|bytes| bytes == sent.len() as u64), "{received:?}");
}

#[test]
fn states_are_told_apart() {
    let (caller, answerer) = pair();
    let states = || (TcpInfo::of(&caller).unwrap().state, TcpInfo::of(&answerer).unwrap().state);
    assert_eq!(states(), (TcpState::Established, TcpState::Established));
    caller.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&answerer).read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(states().1, TcpState::CloseWait);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(TcpInfo::of(&listener).unwrap().state, TcpState::Listen);
}

/// A peer that does not read, with room for little, leaves what is sent unacknowledged.
#[test]
fn unacknowledged_bytes_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let mut caller = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut answerer = listener.accept().unwrap().0;
    assert_eq!(unacknowledged(&caller).unwrap(), 0);
    caller.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(bytes) = caller.write(&[0; 10_000]) {
        sent += bytes;
    }
    let left = unacknowledged(&caller).unwrap();
    assert!(left > 0 && left as usize <= sent, "{left} of {sent}");
    let unsent = TcpInfo::of(&caller).unwrap().notsent_bytes;
    assert!(unsent.is_none_or(|unsent| unsent > 0 && unsent <= left), "{unsent:?} of {left}");

    caller.shutdown(Shutdown::Write).unwrap();
    let with_fin = unacknowledged(&caller).unwrap();
    assert!(with_fin as usize <= sent + 1 && with_fin > 1, "{with_fin}");
    answerer.read_to_end(&mut Vec::new()).unwrap();
    // The acknowledgement of the end comes with what is sent back, or a moment later.
    let start = std::time::Instant::now();
    while unacknowledged(&caller).unwrap() > 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "it stays unacknowledged");
        std::thread::yield_now();
    }
}

#[test]
fn what_is_no_connection_is_an_error() {
    let file = File::open("/dev/null").unwrap();
    assert!(TcpInfo::of(&file).is_err());
    assert!(unacknowledged(&file).is_err());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(unacknowledged(&listener).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}
