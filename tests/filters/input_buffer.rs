//! The loop's input buffer, which filters are given and may move.

use std::io;
use std::sync::{Arc, Mutex};

use crate::support::{LIMIT, with_watchdog};
use reveille::net::{Filter, FilterContext};
use reveille::testing::Peer;
use reveille::{Buffer, ConnectionHandler, EventLoop, TcpConnection};

/// The size of the loop's input buffer.
const SIZE: usize = 4096;

/// The place and the length of the input of each call.
type Inputs = Arc<Mutex<Vec<(usize, usize)>>>;

fn record(inputs: &Inputs, input: &Buffer) {
    inputs.lock().unwrap().push((input.readable().as_ptr() as usize, input.len()));
}

/// Repeats each input eight times.
struct Repeat(Inputs);

impl Filter for Repeat {
    fn decode(
        &mut self,
        _: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        record(&self.0, input);
        for _ in 0..8 {
            output.append(input.readable());
        }
        input.clear();
        Ok(())
    }
}

/// Passes input on.
struct Pass(Inputs);

impl Filter for Pass {
    fn decode(
        &mut self,
        _: &mut FilterContext<'_>,
        input: &mut Buffer,
        output: &mut Buffer,
    ) -> io::Result<()> {
        record(&self.0, input);
        output.append_buffer(input);
        Ok(())
    }
}

struct Count(Arc<Mutex<usize>>);

impl ConnectionHandler for Count {
    fn on_message(&mut self, _: &TcpConnection<'_>, input: &mut Buffer) -> io::Result<()> {
        *self.0.lock().unwrap() += input.take_all().len();
        Ok(())
    }
}

/// Whether all inputs of the first filter are at one place, and none is longer than the buffer. The
/// first is at the buffer that the loop has begun with.
#[track_caller]
fn check(inputs: &Inputs) {
    let inputs = inputs.lock().unwrap();
    let (place, _) = inputs[0];
    assert!(inputs.len() >= 16);
    for &(at, len) in &*inputs {
        assert!(len <= SIZE, "{len} bytes at once");
        assert_eq!(at, place, "another buffer");
    }
}

#[test]
fn filters_leave_the_loop_its_input_buffer() {
    with_watchdog(LIMIT, || {
        for filters in ["repeat", "pass", "pass, repeat", "pass, pass"] {
            let event_loop = EventLoop::builder().input_buffer(SIZE).build().unwrap();
            let (inputs, count) = (Inputs::default(), Arc::<Mutex<usize>>::default());
            let mut builder = TcpConnection::builder(&event_loop);
            for (n, name) in filters.split(", ").enumerate() {
                let inputs = if n == 0 { Arc::clone(&inputs) } else { Inputs::default() };
                builder = match name {
                    "repeat" => builder.filter(move || Repeat(Arc::clone(&inputs))),
                    _ => builder.filter(move || Pass(Arc::clone(&inputs))),
                };
            }
            let counted = Arc::clone(&count);
            let peer = Peer::connect_with(builder, move |_| Count(counted)).unwrap();
            for _ in 0..4 {
                peer.send(vec![1; 4 * SIZE]).unwrap();
            }
            let repeated = if filters.contains("repeat") { 8 } else { 1 };
            assert_eq!(*count.lock().unwrap(), repeated * 16 * SIZE, "{filters}");
            check(&inputs);
        }
    });
}
