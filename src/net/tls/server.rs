//! [`ServerTls`]: the server's side of TLS.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};
use rustls::ServerConfig;

use super::certificates::recording_names;
use super::error::TlsError;
use super::filter::{FilterSettings, Start, TlsFilter};
use super::server_builder::ServerTlsBuilder;
use crate::event_loop::containment::logger;
use crate::event_loop::process_mark::ProcessMark;
use crate::threads::workers::Workers;

/// The server's side of TLS: a configuration of rustls that can be replaced at run time.
///
/// A clone shares the configuration. `Send` and `Sync`: it may be used on any thread.
///
/// ```no_run
/// use reveille::tls::ServerTls;
/// use reveille::{EventLoop, TcpServer};
///
/// # fn main() -> std::io::Result<()> {
/// let tls = ServerTls::from_pem_files("cert.pem", "key.pem")?;
/// let event_loop = EventLoop::new()?;
/// let _server = TcpServer::bind(&event_loop, "127.0.0.1:7006")?
///     .tls(tls)
///     .serve_fn(|conn, input| conn.send(input.take_all()))?;
/// event_loop.run()
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct ServerTls {
    shared: Arc<Shared>,
    settings: FilterSettings,
    workers: Option<Workers>,
}

struct Shared {
    /// Held only to copy or to exchange the reference. There are two copies, and one thread at a
    /// time exchanges them one after the other. So a fork finds at least one that is not locked.
    configs: [RwLock<Arc<ServerConfig>>; 2],
    replacing: Mutex<()>,
    process: ProcessMark,
    /// Loads the configuration again.
    builder: Option<ServerTlsBuilder>,
}

impl Shared {
    fn config(&self) -> Arc<ServerConfig> {
        if self.process.is_current() {
            return Arc::clone(&self.configs[0].read());
        }
        // A thread of the parent may hold one of the locks for ever. A forked child never writes.
        let config = self.configs.iter().find_map(|config| config.try_read());
        Arc::clone(&config.expect("a thread of the parent exchanges one copy at a time"))
    }
}

impl ServerTls {
    /// Uses a configuration of rustls. It decides on versions and suites, client certificates,
    /// ALPN, sessions, and early data; all of these keep the defaults of rustls unless it changes
    /// them.
    ///
    /// Early data (RFC 8446, section 2.3) is off unless `max_early_data_size` is set. It is
    /// delivered after the handshake, and
    /// [`TlsInfo::early_data`](crate::tls::TlsInfo::early_data) returns its length.
    pub fn new(config: Arc<ServerConfig>) -> ServerTls {
        ServerTls::build(&config, None)
    }

    /// Loads a certificate chain and a key from PEM files, with the defaults of rustls for
    /// everything else. Same as [`builder`](ServerTls::builder) with one certificate.
    ///
    /// # Errors
    /// A [`TlsError`]: [`File`](TlsError::File) names the file that is missing, unreadable, without
    /// a certificate or a key, or whose key does not match; [`Settings`](TlsError::Settings) if the
    /// program has no default crypto provider.
    pub fn from_pem_files(chain: impl AsRef<Path>, key: impl AsRef<Path>) -> io::Result<ServerTls> {
        ServerTls::builder().certificate(chain, key).build()
    }

    /// A builder of a configuration whose certificates are in PEM files.
    pub fn builder() -> ServerTlsBuilder {
        ServerTlsBuilder::default()
    }

    pub(super) fn build(config: &ServerConfig, builder: Option<ServerTlsBuilder>) -> ServerTls {
        let config = recording_names(config);
        let configs = [RwLock::new(Arc::clone(&config)), RwLock::new(config)];
        let (replacing, process) = (Mutex::new(()), ProcessMark::current());
        ServerTls {
            shared: Arc::new(Shared { configs, replacing, process, builder }),
            settings: FilterSettings { allow_truncation: false, max_client_hello: 16 * 1024 },
            workers: None,
        }
    }

    /// Treats a FIN without close_notify as the end of input, if it is not within a record.
    /// Default: it closes the connection with [`TlsError::Truncated`]. Only for protocols that mark
    /// the ends of their messages: an attacker can send a FIN.
    pub fn allow_truncation(mut self) -> Self {
        self.settings.allow_truncation = true;
        self
    }

    /// The maximum length of a ClientHello. Default: 16 KiB. rustls accepts at most 64 KiB.
    pub fn max_client_hello(mut self, bytes: usize) -> Self {
        self.settings.max_client_hello = bytes;
        self
    }

    /// Moves the steps of each handshake to threads, with all asymmetric operations: the signature
    /// of the server, its part of the key exchange, and the verification of a client's certificate.
    /// During a step the connection reads nothing, and its handshake counts and can time out as
    /// usual. A loop then serves its other connections with less delay. A step runs on the loop if
    /// the threads take no more jobs, and in a forked child. Default: all steps run on the loop,
    /// which costs less in total.
    ///
    /// ```
    /// # fn run(config: std::sync::Arc<rustls::ServerConfig>) -> std::io::Result<()> {
    /// use reveille::task::Workers;
    /// use reveille::tls::ServerTls;
    ///
    /// let workers = Workers::builder().threads(2).build()?;
    /// let tls = ServerTls::new(config).workers(&workers);
    /// # let _ = tls;
    /// # Ok(())
    /// # }
    /// ```
    pub fn workers(mut self, workers: &Workers) -> Self {
        self.workers = Some(workers.clone());
        self
    }

    /// Replaces the configuration, from any thread. Connections that are established from now on
    /// use `config`; existing ones keep theirs.
    ///
    /// A forked child keeps the configuration that it has inherited: there this has no effect, and
    /// is logged. It creates a `ServerTls` of its own.
    pub fn replace(&self, config: &ServerConfig) {
        if let Err(error) = self.shared.process.check() {
            return logger::call(|| log::error!("the old TLS configuration stays in use: {error}"));
        }
        let config = recording_names(config);
        let turn = self.shared.replacing.lock();
        let old = self
            .shared
            .configs
            .each_ref()
            .map(|copy| std::mem::replace(&mut *copy.write(), Arc::clone(&config)));
        drop(turn);
        // No lock is held: the old configuration may contain values of the user.
        drop(old);
    }

    /// Loads the files again and [replaces](ServerTls::replace) the configuration, from any thread.
    /// Reads files, so a loop whose files are on a slow disk calls it on
    /// [`Workers`](crate::task::Workers).
    ///
    /// Sessions from before cannot be resumed.
    ///
    /// # Errors
    /// Same as [`ServerTlsBuilder::build`], and [`InvalidInput`](io::ErrorKind::InvalidInput) for a
    /// configuration that was not loaded from files. The old configuration stays in use, and the
    /// error is logged too. [`Unsupported`](io::ErrorKind::Unsupported) in a forked child.
    pub fn reload(&self) -> io::Result<()> {
        self.shared.process.check()?;
        let loaded = match &self.shared.builder {
            Some(builder) => builder.load(),
            None => Err(TlsError::Settings("the TLS configuration was not loaded from files".to_owned())),
        };
        match loaded {
            Ok(config) => {
                self.replace(&config);
                Ok(())
            }
            Err(error) => {
                logger::call(|| log::error!("the old TLS configuration stays in use: {error}"));
                Err(error.into())
            }
        }
    }

    pub(in crate::net) fn filter(&self) -> TlsFilter {
        TlsFilter::new(Start::Server(self.shared.config()), self.settings, self.workers.clone())
    }
}

impl From<Arc<ServerConfig>> for ServerTls {
    fn from(config: Arc<ServerConfig>) -> ServerTls {
        ServerTls::new(config)
    }
}

impl From<&ServerTls> for ServerTls {
    fn from(tls: &ServerTls) -> ServerTls {
        tls.clone()
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("builder", &self.shared.builder)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
