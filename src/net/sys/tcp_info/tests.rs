use super::*;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// Returns a value whose every byte is its own offset.
fn numbered(length: usize) -> Vec<u8> {
    (0..length).map(|at| at as u8).collect()
}

fn u32_at(at: usize) -> u32 {
    u32::from_ne_bytes([at as u8, at as u8 + 1, at as u8 + 2, at as u8 + 3])
}

#[test]
fn fields_are_read_from_the_kernels_offsets() {
    let bytes = numbered(248);
    let info = TcpInfo::read(&OptionValue(&bytes)).unwrap();
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
fn missing_fields_are_none_and_unknown_ones_are_ignored() {
    let bytes = numbered(MAX_LEN);
    let newest = TcpInfo::read(&OptionValue(&bytes)).unwrap();
    assert_eq!(newest, TcpInfo::read(&OptionValue(&bytes[..232])).unwrap());
    // Linux 2.6, and a value that ends in the middle of a field.
    let oldest = TcpInfo::read(&OptionValue(&bytes[..104])).unwrap();
    assert_eq!((oldest.total_retrans, oldest.pacing_rate, oldest.snd_wnd), (u32_at(100), None, None));
    let partial = TcpInfo::read(&OptionValue(&bytes[..150])).unwrap();
    assert_eq!((partial.notsent_bytes, partial.min_rtt), (Some(u32_at(144)), None));
    for length in 0..104 {
        assert_eq!(TcpInfo::read(&OptionValue(&bytes[..length])), None, "{length} bytes");
    }
}

#[test]
fn values_with_all_bits_set_are_none() {
    let info = TcpInfo::read(&OptionValue(&[0xFF; 248])).unwrap();
    assert_eq!((info.min_rtt, info.pacing_rate), (None, None));
    assert_eq!(info.notsent_bytes, Some(u32::MAX));
}

#[test]
fn get_option_truncates_to_the_given_buffer() {
    let (client, _server) = pair();
    for len in [0, 1, 7, 104, 150] {
        let mut value = vec![0xAA; len + 8];
        assert_eq!(get_option(&client, libc::IPPROTO_TCP, libc::TCP_INFO, &mut value[..len]).unwrap(), len);
        assert_eq!(value[len..], [0xAA; 8], "past the end");
    }
}

#[test]
fn tcp_info_describes_a_loopback_connection() {
    let (mut client, mut server) = pair();
    let sent = vec![7; 30_000];
    client.write_all(&sent).unwrap();
    server.read_exact(&mut vec![0; sent.len()]).unwrap();
    let info = TcpInfo::of(&client).unwrap();
    assert_eq!(info.state, TcpState::Established);
    assert!(info.snd_mss > 500 && info.pmtu > info.snd_mss, "{info:?}");
    assert!(info.snd_cwnd > 0 && info.rto > info.rtt, "{info:?}");
    // Older kernels do not have this field.
    assert!(info.bytes_sent.is_none_or(|bytes| bytes == sent.len() as u64), "{info:?}");
    let received = TcpInfo::of(&server).unwrap().bytes_received;
    assert!(received.is_none_or(|bytes| bytes == sent.len() as u64), "{received:?}");
}

#[test]
fn tcp_info_distinguishes_connection_states() {
    let (client, server) = pair();
    let states = || (TcpInfo::of(&client).unwrap().state, TcpInfo::of(&server).unwrap().state);
    assert_eq!(states(), (TcpState::Established, TcpState::Established));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&server).read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(states().1, TcpState::CloseWait);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(TcpInfo::of(&listener).unwrap().state, TcpState::Listen);
}

/// A peer with a small receive buffer that does not read leaves sent data unacknowledged.
#[test]
fn unacknowledged_bytes_are_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&listener).set_recv_buffer_size(4096).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut server = listener.accept().unwrap().0;
    assert_eq!(unacknowledged(&client).unwrap(), 0);
    client.set_nonblocking(true).unwrap();
    let mut sent = 0;
    while let Ok(bytes) = client.write(&[0; 10_000]) {
        sent += bytes;
    }
    let left = unacknowledged(&client).unwrap();
    assert!(left > 0 && left as usize <= sent, "{left} of {sent}");
    let unsent = TcpInfo::of(&client).unwrap().notsent_bytes;
    assert!(unsent.is_none_or(|unsent| unsent > 0 && unsent <= left), "{unsent:?} of {left}");

    client.shutdown(Shutdown::Write).unwrap();
    let with_fin = unacknowledged(&client).unwrap();
    assert!(with_fin as usize <= sent + 1 && with_fin > 1, "{with_fin}");
    server.read_to_end(&mut Vec::new()).unwrap();
    // The ACK of the FIN comes with a segment in the other direction, or slightly later.
    let start = std::time::Instant::now();
    while unacknowledged(&client).unwrap() > 0 {
        assert!(start.elapsed() < Duration::from_secs(30), "it stays unacknowledged");
        std::thread::yield_now();
    }
}

#[test]
fn queries_of_other_descriptors_fail() {
    let file = File::open("/dev/null").unwrap();
    assert!(TcpInfo::of(&file).is_err());
    assert!(unacknowledged(&file).is_err());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(unacknowledged(&listener).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}
