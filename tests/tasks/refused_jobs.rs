//! A refused job comes back with the reply slot that it owns.

use std::io::{self, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use crate::support::{net, with_loop};
use reveille::net::ReplySlot;
use reveille::task::{JobError, Workers, WorkersError};
use reveille::{EventLoop, TcpConnection, TcpServer};

/// A pool with room for two jobs, which do not end before the sender is dropped.
struct Busy {
    workers: Workers,
    gate: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Busy {
    fn new() -> (Busy, mpsc::Sender<()>) {
        let (open, gate) = mpsc::channel();
        let workers = Workers::builder().threads(1).queue(1).build().unwrap();
        (Busy { workers, gate: Arc::new(Mutex::new(gate)) }, open)
    }

    fn work(&self, request: u8) -> impl FnOnce() -> String + Send + use<> {
        let gate = Arc::clone(&self.gate);
        move || {
            let _ = gate.lock().unwrap().recv();
            format!("{} ", char::from(request).to_ascii_uppercase())
        }
    }

    /// The callback for the result owns the slot, and replies for a refused job.
    fn submit(&self, conn: &TcpConnection<'_>, slot: ReplySlot, request: u8) -> Option<WorkersError> {
        let done = move |_: &EventLoop, result: Result<String, JobError>| {
            slot.fill(result.unwrap_or_else(|_| "busy ".to_owned())).unwrap();
        };
        let refused = self.workers.submit(conn.event_loop(), self.work(request), done).err()?;
        let ((_work, done), reason) = refused.into_parts();
        done(conn.event_loop(), Err(JobError::Cancelled));
        Some(reason)
    }

    /// The job owns the slot. A refused one runs here.
    fn execute(&self, slot: ReplySlot) -> Option<WorkersError> {
        let job = move || slot.fill("late").unwrap();
        let (job, reason) = self.workers.execute(job).err()?.into_parts();
        job();
        Some(reason)
    }
}

#[test]
fn refused_jobs_return_their_slots_and_replies_keep_their_order() {
    with_loop(|event_loop| {
        let (pool, open) = Busy::new();
        let mut open = Some(open);
        let server = TcpServer::bind(event_loop, "127.0.0.1:0").unwrap().serve_fn(move |conn, input| {
            for &request in input.take_all() {
                let slot = conn.reserve_reply()?;
                let expected = if matches!(request, b'a' | b'b') { None } else { Some(WorkersError::Full) };
                let refused = match request {
                    b'd' => pool.execute(slot),
                    _ => pool.submit(conn, slot, request),
                };
                assert_eq!(refused, expected);
                if request == b'd' {
                    drop(open.take());
                }
            }
            io::Result::Ok(())
        });
        let (address, handle) = (server.as_ref().unwrap().local_addr().unwrap(), event_loop.handle());
        let client = thread::spawn(move || {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(b"abcd").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let replies = net::read_to_end(&mut client);
            handle.quit();
            replies
        });
        event_loop.run().unwrap();
        assert_eq!(client.join().unwrap(), b"A B busy late");
    });
}
