//! System calls on sockets.

pub(in crate::net) mod adopted;
pub(in crate::net) mod fd_passing;
pub(in crate::net) mod int_options;
pub(in crate::net) mod stream;
pub(in crate::net) mod systemd;
pub(in crate::net) mod tcp_info;
pub(in crate::net) mod transport;
