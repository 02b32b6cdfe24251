//! Relays between TLS and a backend in plain text: `relay_to`, and the stream module of nginx.

use std::convert::Infallible;
use std::env;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, id};

use reveille::tls::ServerTls;
use reveille::{Buffer, ConnectionHandle, ConnectionHandler, EventLoop, TcpClient, TcpConnection, TcpServer};
use rustix::process::{Signal, set_parent_process_death_signal};

use super::{announce, listener, tell};
use crate::Result;
use crate::tls::Identity;

/// The environment variable with the address of the backend.
pub(crate) const BACKEND: &str = "REVEILLE_COMPARE_BACKEND";

/// Where Debian's package libnginx-mod-stream has it.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

fn backend() -> Result<SocketAddr> {
    Ok(env::var(BACKEND).map_err(|error| format!("{BACKEND}: {error}"))?.parse()?)
}

/// reveille: each accepted connection is linked with one to the backend.
pub(super) fn serve_reveille() -> Result<()> {
    let backend = backend()?;
    let tls = ServerTls::new(Identity::from_variables()?.server_config()?);
    let event_loop = EventLoop::new()?;
    let server = TcpServer::bind(&event_loop, "127.0.0.1:0")?
        .tls(tls)
        .serve(move |_| Front { backend, client: None })?;
    announce(server.local_addr()?)?;
    event_loop.run()?;
    Ok(())
}

struct Front {
    backend: SocketAddr,
    client: Option<TcpClient>,
}

impl ConnectionHandler for Front {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.pause_reading();
        let (front, failed) = (conn.handle(), conn.handle());
        let client = TcpClient::connect(conn.event_loop(), self.backend)
            .on_failure(move |_, _| failed.close())
            .serve(move |_| Back(front.clone()))?;
        self.client = Some(client);
        Ok(())
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        Ok(()) // paused, then relayed
    }
}

struct Back(ConnectionHandle);

impl ConnectionHandler for Back {
    fn on_open(&mut self, conn: &TcpConnection<'_>) -> io::Result<()> {
        conn.relay_to(&self.0)
    }

    fn on_message(&mut self, _: &TcpConnection<'_>, _: &mut Buffer) -> io::Result<()> {
        Ok(()) // relayed
    }
}

/// Replaces this process by nginx, which listens on the address that this function prints. It has
/// one process and one thread.
///
/// The buffers are as large as a read of reveille.
pub(super) fn become_nginx() -> Result<Infallible> {
    let backend = backend()?;
    let program = nginx().ok_or("nginx is not installed")?;
    // A free one. nginx without a master process cannot inherit a listener.
    let address = listener()?.local_addr()?;
    let folder = folder(id());
    fs::create_dir_all(&folder)?;
    Identity::from_variables()?.write_to(&folder)?;
    let settings = format!(
        "load_module {STREAM_MODULE}; daemon off; master_process off; worker_processes 1; pid nginx.pid;
         error_log stderr crit; worker_rlimit_nofile 8192; events {{ worker_connections 8000; }}
         stream {{ server {{
           listen {address} ssl backlog=4096; proxy_pass {backend}; proxy_buffer_size 64k;
           ssl_certificate {certificate}; ssl_certificate_key {key}; ssl_protocols TLSv1.3;
         }} }}",
        certificate = folder.join("certificate.pem").display(),
        key = folder.join("key.pem").display(),
    );
    fs::write(folder.join("nginx.conf"), settings)?;
    // nginx does not watch its input.
    set_parent_process_death_signal(Some(Signal::TERM))?;
    tell(address)?;
    let mut command = Command::new(program);
    command.arg("-p").arg(&folder).arg("-c").arg(folder.join("nginx.conf")).args(["-e", "stderr"]);
    Err(command.exec().into())
}

/// Whether nginx and its stream module are installed.
pub(crate) fn has_nginx() -> bool {
    nginx().is_some() && Path::new(STREAM_MODULE).exists()
}

fn nginx() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // A user who is not root may not have it in the path.
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join("nginx")).find(|program| program.exists())
}

/// Removes the files of a process of nginx that has ended.
pub(crate) fn clean_up(process: u32) {
    let _ = fs::remove_dir_all(folder(process));
}

/// The folder of the process `process`.
fn folder(process: u32) -> PathBuf {
    env::temp_dir().join(format!("reveille-compare-nginx-{process}"))
}
