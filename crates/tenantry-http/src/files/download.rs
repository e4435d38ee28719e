//! Sending a file.
//!
//! Each chunk is read when the client is ready for it: from the page cache on the reactor's thread,
//! by a call that never waits for the disk (`RWF_NOWAIT`), and otherwise on a thread for file work,
//! which is given back before the client is waited for. So a slow client holds no thread, and the
//! memory of one chunk.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use futures_util::stream::unfold;
use rustix::fs::{Stat, fstat};
use rustix::io::{ReadWriteFlags, preadv2};

use super::Files;

/// A file, and what of it is still to be sent.
pub(super) struct Download {
    pub(super) file: Arc<File>,
    /// The file as it was opened.
    pub(super) stat: Stat,
    pub(super) offset: u64,
    pub(super) end: u64,
}

impl Download {
    /// Returns the body. It fails if the file is cut off or changed in place meanwhile, so that a
    /// client never takes a mixture for the whole.
    pub(super) fn into_body(self, files: Arc<Files>) -> Body {
        Body::from_stream(unfold(Some((self, files)), |state| async move {
            let (mut download, files) = state?;
            if download.offset == download.end {
                return None;
            }
            match download.next(&files).await {
                Ok(chunk) => Some((Ok(chunk), Some((download, files)))),
                Err(error) => {
                    tracing::warn!("a download was broken off: {error}");
                    Some((Err(error), None))
                }
            }
        }))
    }

    async fn next(&mut self, files: &Files) -> io::Result<Bytes> {
        let room = files.work.room();
        let length = (self.end - self.offset).min(room.bytes as u64);
        // At most the bytes of the room.
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(room.bytes)];
        let offset = self.offset;
        let read = match preadv2(
            &*self.file,
            &mut [IoSliceMut::new(&mut bytes)],
            offset,
            ReadWriteFlags::NOWAIT,
        ) {
            Ok(read) => read,
            // Not in the cache, or the file system can't tell.
            Err(_) => {
                let file = Arc::clone(&self.file);
                let read = files
                    .work
                    .run(move || file.read_at(&mut bytes, offset).map(|read| (read, bytes)));
                let (read, filled) = read.await.map_err(io::Error::other)??;
                bytes = filled;
                read
            }
        };
        if read == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file was cut off while it was sent",
            ));
        }
        bytes.truncate(read);
        self.offset += read as u64;
        // Before the last chunk is sent, since without that the client knows that it lacks
        // something.
        if self.offset == self.end && self.has_changed()? {
            return Err(io::Error::other("the file was changed while it was sent"));
        }
        Ok(room.hold(bytes))
    }

    /// The time of the last change of the inode isn't compared: an upload that replaces the file
    /// changes it and leaves the content as it is.
    fn has_changed(&self) -> io::Result<bool> {
        let now = fstat(&*self.file)?;
        let state = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
        Ok(state(&now) != state(&self.stat))
    }
}
