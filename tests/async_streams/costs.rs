//! The allocations of a steady async echo, and the memory of an idle stream.

use crate::support::counting::{Counts, counts};
use crate::support::futures::run;
use crate::support::with_loop;
use reveille::net::ByteStream;
use reveille::{Buffer, TcpServer};

const MESSAGES: usize = 1_000;

#[test]
fn a_steady_async_echo_allocates_nothing() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve_async(|mut stream| async move {
            let mut input = Buffer::new();
            while stream.read_buf(&mut input).await? > 0 {
                stream.write_buf(&mut input).await?;
            }
            Ok(())
        });
        let address = server.as_ref().unwrap().local_address().clone();
        let allocated = run(event_loop, async move {
            let mut stream = ByteStream::connect(address).await.unwrap();
            let mut bytes = [0; 64];
            let mut before = counts();
            for message in 0..2 * MESSAGES {
                if message == MESSAGES {
                    before = counts();
                }
                stream.write_all([1; 64]).await.unwrap();
                stream.read_exact(&mut bytes).await.unwrap();
            }
            let Counts { allocated, freed, .. } = counts() - before;
            (allocated, freed)
        });
        assert_eq!(allocated, (0, 0));
    });
}

#[test]
fn an_idle_async_connection_keeps_at_most_1200_bytes() {
    with_loop(|event_loop| {
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap();
        let server = server.serve_async(|mut stream| async move {
            let mut input = Buffer::new();
            while stream.read_buf(&mut input).await? > 0 {
                stream.write_buf(&mut input).await?;
            }
            Ok(())
        });
        let server = server.unwrap();
        let address = server.local_address().as_inet().expect("an inet address");
        let mut clients = Vec::with_capacity(1000);
        let mut held = counts().held;
        for number in 0..400_u64 {
            // The tables have grown for the first ones.
            if number == 200 {
                held = counts().held;
            }
            let mut client = std::net::TcpStream::connect(address).unwrap();
            while server.open_connections() <= number {
                crate::support::turn(event_loop);
            }
            // The storage of the echo is given back.
            std::io::Write::write_all(&mut client, b"x").unwrap();
            while !crate::support::is_readable(&client) {
                crate::support::turn(event_loop);
            }
            clients.push(client);
            crate::support::turn(event_loop);
            crate::support::turn(event_loop);
        }
        let each = (counts().held - held) / 200;
        println!("{each} bytes");
        assert!(each <= 1200, "{each} bytes");
    });
}
