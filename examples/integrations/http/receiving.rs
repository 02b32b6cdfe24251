//! The part of a session that receives an upload. The file is written on other threads or by
//! io_uring; meanwhile the connection does not read, so it holds at most one piece and one input.

use std::io;

use reveille::net::SendError;
use reveille::{EventLoop, TcpConnection};
use rustix::io::Errno;

use crate::protocol::{Body, Request, Status};
use crate::reply::{Head, Persistence};
use crate::root::status_of;
use crate::session::{LINGER, Receiving, Session};
use crate::upload::{PIECE, Upload};

impl Session {
    pub(crate) fn begin_upload(
        &mut self,
        conn: &TcpConnection,
        request: &Request<'_>,
        upload: Upload,
    ) -> Result<(), SendError> {
        log::info!("{}: PUT {}", conn.peer_address(), request.target);
        if request.expects_continue {
            conn.send("HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        if request.body == Body::Length(0) {
            self.receiving = Receiving::Upload(Box::new(upload));
            self.continue_upload(conn, true);
        } else {
            self.expect_body(conn, Receiving::Upload(Box::new(upload)));
        }
        Ok(())
    }

    /// Bytes have been received: writes them if there are enough.
    pub(crate) fn continue_upload(&mut self, conn: &TcpConnection, is_last: bool) {
        let Receiving::Upload(upload) = &mut self.receiving else { return };
        if is_last {
            upload.is_complete = true;
            upload.keep_open = Some(conn.keep_open());
        } else if upload.buffer.len() < PIECE {
            return;
        }
        conn.pause_reading();
        let handle = conn.handle();
        // A connection that has closed has removed the file.
        if upload.buffer.is_empty() {
            upload.uploads.files.sync_data(&upload.file, move |event_loop: &EventLoop, synced| {
                let _ = handle
                    .with_local(event_loop, move |this: &mut Session, conn| this.on_synced(conn, synced));
            });
            return;
        }
        let (offset, buffer) = (upload.offset, std::mem::take(&mut upload.buffer));
        upload.offset += buffer.len() as u64;
        upload.uploads.files.write_all_at(
            &upload.file,
            offset,
            buffer,
            move |event_loop, written, buffer| {
                let _ = handle.with_local(event_loop, move |this: &mut Session, conn| {
                    this.on_written(conn, written, buffer);
                });
            },
        );
    }

    fn on_written(&mut self, conn: &TcpConnection, written: io::Result<()>, mut buffer: Vec<u8>) {
        let Receiving::Upload(upload) = &mut self.receiving else { return };
        match written {
            Err(error) => self.fail_upload(conn, &error),
            Ok(()) if upload.is_complete => self.continue_upload(conn, true),
            Ok(()) => {
                buffer.clear();
                upload.buffer = buffer;
                conn.resume_reading();
            }
        }
    }

    /// All bytes are on the disk.
    fn on_synced(&mut self, conn: &TcpConnection, synced: io::Result<()>) -> Result<(), SendError> {
        if let Err(error) = synced {
            self.fail_upload(conn, &error);
            return Ok(());
        }
        let Receiving::Upload(mut upload) = std::mem::take(&mut self.receiving) else { return Ok(()) };
        let persistence = upload.persistence;
        let status = upload.commit();
        log::info!("{}: {} {}", conn.peer_address(), status.0, status.phrase());
        let head = Head::new(status, self.site.now(conn).0);
        let head = if status == Status(204) { head } else { head.field("Content-Length", 0) };
        let head = head.end(persistence);
        self.accepted += head.len() as u64;
        conn.send(head)?;
        if persistence == Persistence::Close {
            conn.close_gracefully(LINGER);
        }
        self.watch_output(conn);
        conn.resume_reading();
        Ok(())
    }

    fn fail_upload(&mut self, conn: &TcpConnection, error: &io::Error) {
        log::warn!("an upload failed: {error}");
        let status = Errno::from_io_error(error).map_or(Status(500), status_of);
        self.refuse_and_close(conn, status);
        conn.resume_reading();
    }
}
