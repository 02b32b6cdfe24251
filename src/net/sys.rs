//! Where the bytes of a connection come from: system calls on sockets and other descriptors, and
//! pairs in memory.

pub(in crate::net) mod adopted;
pub(in crate::net) mod descriptors;
pub(in crate::net) mod fd_passing;
pub(in crate::net) mod int_options;
pub(in crate::net) mod memory;
pub(in crate::net) mod stream;
pub(in crate::net) mod stream_fd;
pub(in crate::net) mod systemd;
pub(in crate::net) mod tcp_info;
pub(in crate::net) mod transport;
