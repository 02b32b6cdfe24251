//! Addresses of the ends of a connection: an IP address and a port, or a Unix socket of this
//! machine.

use std::borrow::Cow;
use std::convert::Infallible;
use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::mem::offset_of;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};

/// The maximum length of a path or an abstract name, in bytes: the size of `sun_path` (unix(7))
/// less one byte. A path needs that byte for its terminator, an abstract name for its leading 0.
const MAX_NAME_LEN: usize = 107;

/// The address of one end of a connection, of any supported family.
///
/// Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Address {
    /// An IP address and a port.
    Inet(SocketAddr),
    /// The address of a Unix socket.
    Unix(UnixAddress),
    /// No address: the other end of a stream that is not a TCP or Unix socket, such as a pipe, a
    /// terminal, a vsock, or a pair in memory. A server or client cannot use it.
    Unaddressed,
}

/// The address of a Unix socket (unix(7)): a path, an abstract name outside the file system, or
/// unnamed.
///
/// `Display` follows the system's own tools: a path is shown unchanged, an abstract name with a
/// leading `@`, and an unnamed address as `unnamed`. The conversion from text is not the inverse:
/// text is always a path, so `"@name"` is one too.
///
/// ```
/// use reveille::net::UnixAddress;
///
/// # fn main() -> Result<(), reveille::net::AddressError> {
/// assert_eq!(UnixAddress::path("/run/greeter.sock")?.to_string(), "/run/greeter.sock");
/// assert_eq!(UnixAddress::abstract_name("greeter")?.to_string(), "@greeter");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UnixAddress(Name);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Name {
    Path(Arc<Path>),
    Abstract(Arc<[u8]>),
    Unnamed,
}

impl Address {
    /// The IP address and the port; `None` for any other address.
    pub fn as_inet(&self) -> Option<SocketAddr> {
        match self {
            Address::Inet(address) => Some(*address),
            Address::Unix(_) | Address::Unaddressed => None,
        }
    }

    /// The IP address and the port, for the methods that return them as those of `std::net` do.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) for any other address.
    pub(super) fn to_inet(&self) -> io::Result<SocketAddr> {
        let message = match self {
            Address::Inet(address) => return Ok(*address),
            Address::Unix(_) => "a Unix socket has no IP address",
            Address::Unaddressed => "a stream that is not a TCP connection has no IP address",
        };
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    pub(super) fn is_inet(&self) -> bool {
        matches!(self, Address::Inet(_))
    }

    /// The address of a Unix socket; `None` for any other address.
    pub fn as_unix(&self) -> Option<&UnixAddress> {
        match self {
            Address::Unix(address) => Some(address),
            Address::Inet(_) | Address::Unaddressed => None,
        }
    }

    pub(super) fn is_unix(&self) -> bool {
        self.as_unix().is_some()
    }

    /// Converts an address that the kernel returned.
    ///
    /// # Errors
    /// `EAFNOSUPPORT` for an address of another family.
    pub(super) fn from_kernel(address: SocketAddrAny) -> Result<Address, Errno> {
        if address.address_family() == AddressFamily::UNIX {
            return Ok(Address::Unix(UnixAddress(Name::from_kernel(address))));
        }
        SocketAddr::try_from(address).map(Address::Inet)
    }
}

impl Name {
    fn from_kernel(address: SocketAddrAny) -> Name {
        let len = address.addr_len() as usize;
        // An address of only the family is unnamed; the conversion does not distinguish it from an
        // empty abstract name. A length beyond the structure is a path of 108 bytes: the kernel
        // accepts one and returns it with its terminator, for which its own structure has no space.
        // The conversion would panic on it, and any client could trigger that.
        if len <= offset_of!(libc::sockaddr_un, sun_path) || len > size_of::<libc::sockaddr_un>() {
            return Name::Unnamed;
        }
        SocketAddrUnix::try_from(address).map_or(Name::Unnamed, |address| Name::of(&address))
    }

    fn of(address: &SocketAddrUnix) -> Name {
        if let Some(path) = address.path_bytes() {
            // A path of the maximum length includes its terminator.
            let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
            return Name::Path(Arc::from(Path::new(OsStr::from_bytes(path))));
        }
        match address.abstract_name() {
            Some(name) => Name::Abstract(Arc::from(name)),
            None => Name::Unnamed,
        }
    }
}

impl UnixAddress {
    /// A path: the socket is a file there.
    ///
    /// # Errors
    /// If the path is empty, longer than 107 bytes, or contains a 0 byte.
    pub fn path(path: impl AsRef<Path>) -> Result<UnixAddress, AddressError> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_bytes();
        check_name(bytes)?;
        if bytes.contains(&0) {
            return Err(AddressError::new(path.to_string_lossy(), "a path has no byte 0 in it"));
        }
        Ok(UnixAddress(Name::Path(Arc::from(path))))
    }

    /// A name in the abstract namespace, outside the file system and its permissions: every process
    /// of the same network namespace can connect to it, and it disappears with the socket. It may
    /// contain any bytes.
    ///
    /// # Errors
    /// If the name is empty or longer than 107 bytes.
    pub fn abstract_name(name: impl AsRef<[u8]>) -> Result<UnixAddress, AddressError> {
        let name = name.as_ref();
        check_name(name)?;
        Ok(UnixAddress(Name::Abstract(Arc::from(name))))
    }

    /// No name. A server that binds to it gets a free abstract name from the kernel (autobind,
    /// unix(7)), which [`TcpServer::local_address`](crate::TcpServer::local_address) returns. A
    /// client cannot connect to it.
    ///
    /// ```
    /// use reveille::{EventLoop, TcpClient, TcpServer};
    /// use reveille::net::UnixAddress;
    ///
    /// # fn main() -> std::io::Result<()> {
    /// let event_loop = EventLoop::new()?;
    /// let server = TcpServer::bind_unix(&event_loop, UnixAddress::unnamed())?;
    /// let server = server.serve_fn(|_, _| ())?;
    /// assert!(server.local_address().as_unix().unwrap().as_abstract_name().is_some());
    /// let _client = TcpClient::connect(&event_loop, server.local_address()).serve_fn(|_, _| ())?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn unnamed() -> UnixAddress {
        UnixAddress(Name::Unnamed)
    }

    /// The path; `None` for any other kind of address.
    pub fn as_path(&self) -> Option<&Path> {
        match &self.0 {
            Name::Path(path) => Some(path),
            Name::Abstract(_) | Name::Unnamed => None,
        }
    }

    /// The abstract name without its leading 0 byte; `None` for any other kind of address.
    pub fn as_abstract_name(&self) -> Option<&[u8]> {
        match &self.0 {
            Name::Abstract(name) => Some(name),
            Name::Path(_) | Name::Unnamed => None,
        }
    }

    /// Returns `true` if the socket has no name, as most connecting sockets. A path of 108 bytes
    /// counts as unnamed: the kernel accepts it from a peer but has no space to return it.
    pub fn is_unnamed(&self) -> bool {
        matches!(self.0, Name::Unnamed)
    }

    /// The address in the form that bind(2) takes. The kernel binds an unnamed socket to a free
    /// abstract name.
    ///
    /// # Errors
    /// None for an address of this type; the conversion checks it again.
    pub(super) fn to_kernel_for_bind(&self) -> io::Result<SocketAddrUnix> {
        if self.is_unnamed() { Ok(SocketAddrUnix::new_unnamed()) } else { self.to_kernel() }
    }

    /// The address in the form that connect(2) takes.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if the address is unnamed.
    pub(super) fn to_kernel(&self) -> io::Result<SocketAddrUnix> {
        match &self.0 {
            Name::Abstract(name) => Ok(SocketAddrUnix::new_abstract_name(name)?),
            Name::Path(path) => Ok(SocketAddrUnix::new(path.as_os_str().as_bytes())?),
            Name::Unnamed => {
                let message = "a socket without a name cannot be addressed";
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
        }
    }
}

/// Checks the length of a path or an abstract name.
fn check_name(name: &[u8]) -> Result<(), AddressError> {
    let error = |reason: String| Err(AddressError::new(String::from_utf8_lossy(name), reason));
    match name.len() {
        0 => error("the name of the Unix socket is empty".to_owned()),
        1..=MAX_NAME_LEN => Ok(()),
        len => error(format!("the name of a Unix socket has at most {MAX_NAME_LEN} bytes, and not {len}")),
    }
}

/// Why a text, a path or a list is not an address.
///
/// Converts to [`io::Error`], with the kind [`InvalidInput`](io::ErrorKind::InvalidInput).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError {
    text: String,
    reason: Cow<'static, str>,
}

impl AddressError {
    pub(super) fn new(text: impl Into<String>, reason: impl Into<Cow<'static, str>>) -> AddressError {
        AddressError { text: text.into(), reason: reason.into() }
    }

    /// The reason, as the error of an operation whose target is named elsewhere.
    pub(super) fn reason(&self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, self.reason.clone())
    }

    /// The text that is not an address.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The error of an operation that needs the address, for example `connect to`.
    pub(super) fn for_purpose(self, purpose: &str) -> io::Error {
        let AddressError { text, reason } = self;
        io::Error::new(io::ErrorKind::InvalidInput, format!("cannot {purpose} {text:?}: {reason}"))
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not an address: {}", self.text, self.reason)
    }
}

impl std::error::Error for AddressError {}

impl From<AddressError> for io::Error {
    fn from(error: AddressError) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidInput, error)
    }
}

/// The error of a conversion that cannot fail, for methods that take any conversion.
impl From<Infallible> for AddressError {
    fn from(never: Infallible) -> AddressError {
        match never {}
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Address {
        Address::Inet(address)
    }
}

impl From<SocketAddrV4> for Address {
    fn from(address: SocketAddrV4) -> Address {
        Address::Inet(address.into())
    }
}

impl From<SocketAddrV6> for Address {
    fn from(address: SocketAddrV6) -> Address {
        Address::Inet(address.into())
    }
}

impl From<UnixAddress> for Address {
    fn from(address: UnixAddress) -> Address {
        Address::Unix(address)
    }
}

impl FromStr for UnixAddress {
    type Err = AddressError;

    /// Same as [`path`](UnixAddress::path).
    fn from_str(path: &str) -> Result<UnixAddress, AddressError> {
        UnixAddress::path(path)
    }
}

impl TryFrom<&str> for UnixAddress {
    type Error = AddressError;

    fn try_from(path: &str) -> Result<UnixAddress, AddressError> {
        UnixAddress::path(path)
    }
}

impl TryFrom<&Path> for UnixAddress {
    type Error = AddressError;

    fn try_from(path: &Path) -> Result<UnixAddress, AddressError> {
        UnixAddress::path(path)
    }
}

impl TryFrom<&PathBuf> for UnixAddress {
    type Error = AddressError;

    fn try_from(path: &PathBuf) -> Result<UnixAddress, AddressError> {
        UnixAddress::path(path)
    }
}

impl TryFrom<PathBuf> for UnixAddress {
    type Error = AddressError;

    fn try_from(path: PathBuf) -> Result<UnixAddress, AddressError> {
        UnixAddress::path(path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Inet(address) => address.fmt(f),
            Address::Unix(address) => address.fmt(f),
            Address::Unaddressed => f.write_str("unaddressed"),
        }
    }
}

impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Name::Path(path) => path.display().fmt(f),
            Name::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
            Name::Unnamed => f.write_str("unnamed"),
        }
    }
}

impl fmt::Debug for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnixAddress({self})")
    }
}
