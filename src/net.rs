//! TCP and Unix sockets: servers and clients, and the connections they serve. UDP sockets. Lookups
//! of names.

mod address;
pub(crate) mod client;
pub(crate) mod connection;
pub(in crate::net) mod connection_group;
pub(crate) mod disposal;
mod filter;
mod group;
mod limits;
mod names;
mod options;
pub(crate) mod resolver;
mod result;
pub(crate) mod server;
pub(crate) mod stream;
mod sys;
mod target;
pub(crate) mod test_peer;
#[cfg(feature = "tls")]
pub(crate) mod tls;
pub(crate) mod udp;

pub use address::{Address, AddressError, UnixAddress};
pub use client::TcpClientBuilder;
pub use client::attempt::{ConnectAttempt, ConnectError, ConnectFailure};
pub use client::backoff::Backoff;
pub(crate) use connection::TcpConnection;
pub use connection::driver::ConnectionBuilder;
pub(crate) use connection::handler::ConnectionHandler;
pub use connection::{ConnectionId, ConnectionState, KeepOpen, ReplySlot};
pub use connection_group::{ConnectionGroup, FullPolicy, GroupMap};
pub use disposal::close_descriptors;
pub use filter::{Filter, FilterContext};
pub use group::StopReport;
pub use group::admission::{OverflowPolicy, ServerCounters};
pub use group::peer_key::PeerCredentials;
pub use limits::ConnectionLimits;
pub use options::{KeepAlive, SocketOptions};
pub use resolver::builder::ResolverBuilder;
pub use resolver::error::ResolverError;
pub use resolver::{Lookup, Resolver};
pub use result::{CloseReason, IntoHandlerResult, SendError, SendStatus, WithError};
pub use server::balancer::LoadBalancing;
pub use server::{MultiLoop, ServerHandle, SingleLoop, TcpServerBuilder};
pub use stream::ByteStream;
pub use stream::halves::{ReadHalf, WriteHalf};
pub use stream::make::Connecting;
pub use stream::stop::StopRequested;
pub use sys::systemd::{SystemdListener, systemd_listeners};
pub use sys::tcp_info::{TcpInfo, TcpState};
pub use target::ConnectTarget;
pub use udp::{
    AsyncUdpSocket, DatagramError, DatagramHandler, UdpDestination, UdpHandle, UdpRef, UdpSocketBuilder,
    UdpSource,
};
