//! A guest with a browser: the page over HTTP, and then messages over WebSocket.

use std::io;
use std::mem;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use reveille::net::CloseReason;
use reveille::{Buffer, ConnectionHandler, TcpConnection};
use tungstenite::protocol::frame::coding::CloseCode;

use crate::http::{self, Reply};
use crate::hub::{Format, Hub};
use crate::member::{Counts, HasMember, Member, Next};
use crate::socket::{self, Received, Socket};

/// The time for a request, and for the client to read the response.
const REQUEST_TIME: Duration = Duration::from_secs(15);

/// The time without a byte in either direction after which a client is pinged. If nothing comes for
/// the same time again, its connection is closed.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

/// The time for the client to read what is sent last, and to close.
const LAST_TIME: Duration = Duration::from_secs(5);

/// One connection.
pub(crate) struct Browser {
    hub: Arc<Hub>,
    counts: Rc<Counts>,
    state: State,
}

enum State {
    Http,
    Chat(Box<Chat>),
    /// The guest has left, and the last frame will be sent.
    Closing(Box<Socket>),
    Ended,
}

struct Chat {
    socket: Socket,
    member: Member,
    is_pinged: bool,
    /// The guest writes too fast, and is not read until the deadline.
    is_waiting: bool,
}

/// Why the server ends a chat.
struct Ending {
    code: CloseCode,
    why: String,
}

impl Browser {
    pub(crate) fn new(hub: &Arc<Hub>, counts: &Rc<Counts>) -> Browser {
        Browser { hub: Arc::clone(hub), counts: Rc::clone(counts), state: State::Http }
    }

    /// Processes the input, until it is incomplete or has to wait.
    fn process(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        loop {
            let may_continue = match &mut self.state {
                State::Http => self.on_request(conn, input)?,
                State::Chat(chat) => match chat.on_input(conn, input)? {
                    Ok(may_continue) => may_continue,
                    Err(ending) => {
                        self.leave(conn, ending.code, &ending.why);
                        true
                    }
                },
                State::Closing(_) | State::Ended => {
                    input.clear();
                    false
                }
            };
            if !may_continue {
                return Ok(());
            }
        }
    }

    /// Returns whether the input may contain another request, or a message.
    fn on_request(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<bool> {
        let Some((reply, length)) = http::reply(input.readable()) else { return Ok(false) };
        input.consume(length);
        match reply {
            Reply::Response { bytes, closes } => {
                conn.send(bytes)?;
                if closes {
                    self.state = State::Ended;
                    conn.close_gracefully(LAST_TIME);
                    return Ok(true);
                }
                conn.set_deadline(REQUEST_TIME);
                // The next response is sent when the client has read this one.
                conn.flush()?;
                if conn.unsent() > 0 {
                    conn.pause_reading();
                    conn.notify_drained();
                    return Ok(false);
                }
            }
            Reply::Upgrade(response) => {
                conn.set_deadline(None);
                conn.send(response)?;
                let member = Member::enter(&self.hub, &self.counts, conn, Format::Messages)?;
                let chat = Chat { socket: Socket::new(), member, is_pinged: false, is_waiting: false };
                self.state = State::Chat(Box::new(chat));
            }
        }
        Ok(true)
    }

    /// Leaves the chat, and sends the last frame after all lines that are on their way.
    fn leave(&mut self, conn: &TcpConnection, code: CloseCode, why: &str) {
        match mem::replace(&mut self.state, State::Ended) {
            State::Chat(chat) => {
                chat.member.leave(conn, why);
                self.state = State::Closing(Box::new(chat.socket));
            }
            state => {
                self.state = state;
                return;
            }
        }
        // Lines to the members of a group are tasks. All that were sent before the guest left are
        // queued already, so they leave before the frame. The work delays the end of output when
        // the server stops.
        let (work, handle) = (conn.keep_open(), conn.handle());
        conn.event_loop().queue_in_loop(move |event_loop| {
            // Without effect if the connection has closed meanwhile.
            let _ = handle.with_local(event_loop, move |browser: &mut Browser, conn| {
                let sent = browser.send_close(conn, code);
                drop(work);
                sent
            });
        });
    }

    fn send_close(&mut self, conn: &TcpConnection, code: CloseCode) -> io::Result<()> {
        if let State::Closing(mut socket) = mem::replace(&mut self.state, State::Ended) {
            conn.send(socket.close(code))?;
            conn.close_gracefully(LAST_TIME);
        }
        Ok(())
    }
}

impl Chat {
    /// Processes a message. Returns whether the input may contain another.
    ///
    /// # Errors
    /// The inner error ends the chat.
    fn on_input(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<Result<bool, Ending>> {
        let ending = |code, why: &str| Ok(Err(Ending { code, why: why.to_owned() }));
        if self.is_waiting {
            return Ok(Ok(false));
        }
        let (received, output) = self.socket.receive(input);
        if !output.is_empty() {
            conn.send(output)?;
        }
        let Some(received) = received else { return Ok(Ok(false)) };
        self.is_pinged = false;
        match received {
            Received::Text(text) => match self.member.on_line(conn, &text)? {
                Next::Read => {}
                Next::Wait(delay) => {
                    self.is_waiting = true;
                    conn.pause_reading();
                    conn.set_deadline(delay);
                }
                Next::Quit => return ending(CloseCode::Normal, "/quit"),
            },
            Received::Sign => {}
            Received::Close => return ending(CloseCode::Normal, "closed by the client"),
            Received::Broken(code) => return ending(code, &format!("closed with {code}")),
        }
        Ok(Ok(true))
    }
}

impl HasMember for Browser {
    fn member(&mut self) -> Option<&mut Member> {
        match &mut self.state {
            State::Chat(chat) => Some(&mut chat.member),
            _ => None,
        }
    }
}

impl ConnectionHandler for Browser {
    fn on_open(&mut self, conn: &TcpConnection) -> io::Result<()> {
        conn.set_deadline(REQUEST_TIME);
        Ok(())
    }

    fn on_message(&mut self, conn: &TcpConnection, input: &mut Buffer) -> io::Result<()> {
        self.process(conn, input)
    }

    fn on_drained(&mut self, conn: &TcpConnection) -> io::Result<()> {
        if let State::Http = self.state {
            conn.resume_reading();
        }
        Ok(())
    }

    fn on_deadline(&mut self, conn: &TcpConnection) -> io::Result<()> {
        let State::Chat(chat) = &mut self.state else {
            conn.close();
            return Ok(());
        };
        // The guest may write again. What the socket has decoded in part comes first.
        chat.is_waiting = false;
        self.process(conn, &mut Buffer::new())?;
        if !matches!(&self.state, State::Chat(chat) if chat.is_waiting) {
            conn.resume_reading();
        }
        Ok(())
    }

    fn on_idle(&mut self, conn: &TcpConnection) -> io::Result<()> {
        match &mut self.state {
            State::Chat(chat) if !chat.is_pinged => {
                chat.is_pinged = true;
                conn.send(socket::ping())?;
            }
            _ => conn.close(),
        }
        Ok(())
    }

    fn on_stop(&mut self, conn: &TcpConnection) -> io::Result<()> {
        self.leave(conn, CloseCode::Away, "the server ends");
        Ok(())
    }

    fn on_close(&mut self, conn: &TcpConnection, reason: &CloseReason) {
        if let State::Chat(chat) = mem::replace(&mut self.state, State::Ended) {
            chat.member.on_close(conn, reason);
        }
    }
}
