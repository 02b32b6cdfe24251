//! TCP and Unix sockets: servers and clients, and the connections they serve. UDP sockets.

mod address;
mod client;
mod connection;
pub(crate) mod disposal;
mod group;
mod options;
mod result;
mod server;
mod sys;
mod target;
mod udp;

pub use address::{Address, UnixAddress};
pub use client::attempt::{ConnectAttempt, ConnectError, ConnectFailure};
pub use client::backoff::Backoff;
pub use client::{TcpClient, TcpClientBuilder};
pub use connection::handler::ConnectionHandler;
pub use connection::{ConnectionHandle, ConnectionState, TcpConnection};
pub use group::StopReport;
pub use group::admission::{OverflowPolicy, ServerCounters};
pub use group::peer_key::PeerCredentials;
pub use options::{KeepAlive, SocketOptions};
pub use result::{CloseReason, IntoHandlerResult, SendError, SendStatus};
pub use server::balancer::LoadBalancing;
pub use server::{MultiLoop, ServerHandle, SingleLoop, TcpServer, TcpServerBuilder};
pub use sys::tcp_info::{TcpInfo, TcpState};
pub use target::ConnectTarget;
pub use udp::{
    DatagramError, DatagramHandler, UdpDestination, UdpHandle, UdpRef, UdpSocket, UdpSocketBuilder, UdpSource,
};
