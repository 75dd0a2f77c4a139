//! Unix sockets that only their owner may use.

use std::ffi::OsString;
use std::fs;
use std::io::{Error, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::UnixListener;

/// Longest socket path that the kernel takes (`sun_path` less its end, and less our temporary suffix).
const PATH_LIMIT: usize = 102;

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The kernel's limit.
    #[error(
        "socket path {0} is longer than {PATH_LIMIT} bytes, which the kernel does not take; choose a shorter one"
    )]
    TooLong(PathBuf),
    /// Somebody answers there.
    #[error("another process serves {0}; stop it, or choose another path")]
    InUse(PathBuf),
    /// Not a socket.
    #[error("{0} exists and is not a socket; remove it, or choose another path")]
    NotASocket(PathBuf),
    /// Anything else.
    #[error("cannot make socket {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: Error,
    },
}

/// Listens at `path` with mode 0600. What a process that died has left there is replaced.
///
/// The socket is made under a temporary name, restricted, and renamed: it is never there with wider permissions.
/// Must be called within a tokio runtime.
pub fn bind(path: &Path) -> Result<UnixListener, SocketError> {
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(SocketError::TooLong(path.into()));
    }
    let io = |source| SocketError::Io { path: path.into(), source };
    check_free(path)?;
    let temporary = &draft(path);
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(temporary).map_err(io)?;
    fs::set_permissions(temporary, fs::Permissions::from_mode(0o600)).map_err(io)?;
    fs::rename(temporary, path).map_err(io)?;
    Ok(listener)
}

/// A hidden name beside it: the kubelet would try to use every other socket that appears in its directory.
fn draft(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

fn check_free(path: &Path) -> Result<(), SocketError> {
    let kind = match fs::symlink_metadata(path) {
        Ok(meta) => meta.file_type(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(SocketError::Io { path: path.into(), source }),
    };
    if !kind.is_socket() {
        return Err(SocketError::NotASocket(path.into()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse(path.into())),
        // Nobody listens: left behind by a process that died.
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_its_owner_only_and_answers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        let listener = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (client, server) = tokio::join!(tokio::net::UnixStream::connect(&path), listener.accept());
        assert!(client.is_ok() && server.is_ok());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "a temporary name was left");
    }

    #[tokio::test]
    async fn what_a_dead_process_left_is_replaced_and_what_a_living_one_serves_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("csi.sock");
        drop(bind(&path).unwrap());
        assert!(path.exists(), "a dropped listener leaves its file");
        let alive = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(SocketError::InUse(_))));
        drop(alive);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
    }

    #[tokio::test]
    async fn a_path_that_the_kernel_would_cut_is_refused() {
        let path = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        assert!(matches!(bind(&path), Err(SocketError::TooLong(_))));
    }
}
