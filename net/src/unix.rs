//! Unix sockets that only processes of the same user reach.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The system refuses.
    #[error("cannot listen on {path}: {error}")]
    System {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A living process listens there.
    #[error("cannot listen on {0}: another program does")]
    InUse(PathBuf),
}

/// A listening socket of mode 0600.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    user: u32,
}

impl Listener {
    /// Listens at `path`. A socket that a dead process left behind is replaced.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let fail = |error| BindError::System {
            path: path.to_owned(),
            error,
        };
        if path.exists() {
            if UnixStream::connect(path).await.is_ok() {
                return Err(BindError::InUse(path.to_owned()));
            }
            std::fs::remove_file(path).map_err(fail)?;
        }
        let user = own_user().map_err(fail)?;
        let socket = UnixListener::bind(path).map_err(fail)?;
        // Until here the umask holds; whoever gets in between is refused by `accept`.
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(fail)?;
        Ok(Self { socket, user })
    }

    /// The next connection of a process of our own user; others are closed.
    ///
    /// # Errors
    /// As accept(2).
    pub async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.socket.accept().await?;
            let peer = stream.peer_cred()?.uid();
            if peer == self.user {
                return Ok(stream);
            }
            tracing::warn!(peer, "a connection of another user was refused");
        }
    }
}

/// The effective user of this process: the owner of its folder in procfs.
fn own_user() -> io::Result<u32> {
    Ok(std::fs::metadata("/proc/self")?.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_same_user_may_open_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.sock");
        let listener = Listener::bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (near, far) = tokio::join!(UnixStream::connect(&path), listener.accept());
        assert!(near.is_ok() && far.is_ok());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("worker.sock");
        let living = Listener::bind(&path).await.unwrap();
        let error = Listener::bind(&path).await.unwrap_err();
        assert!(matches!(error, BindError::InUse(p) if p == path));
        drop(living);
        assert!(path.exists(), "as a killed process leaves it");
        Listener::bind(&path).await.unwrap();
    }

    #[tokio::test]
    async fn the_fault_names_the_path() {
        let error = Listener::bind(Path::new("/nowhere/at/all.sock"))
            .await
            .unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot listen on /nowhere/at/all.sock: ")
        );
    }
}
