//! One connection: password, TLS, hands shaken within a time.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use zeroize::Zeroizing;

use super::config::{Password, PostgresConfig};
use super::tls::client_config;
use crate::store::StoreError;

/// How long a connection may take, with all addresses, TLS and authentication.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// Longer is no password.
const PASSWORD_MAX: u64 = 4096;

/// The connection's other half, to be polled.
pub(super) type Wire = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Connects. Password and authorities are read from their files each time.
pub(super) async fn connect(config: &PostgresConfig) -> Result<(Client, Wire), StoreError> {
    let mut server = config.server.clone();
    let fault = |why: String| StoreError::Unavailable(format!("{config}: {why}"));
    match &config.password {
        Password::None => {}
        Password::Text(password) => drop(server.password(password.expose())),
        Password::File(path) => {
            let text = read_password(path).map_err(|e| {
                fault(format!(
                    "--store-password-file '{}' cannot be read: {e}",
                    path.display()
                ))
            })?;
            server.password(text.trim_end_matches(['\r', '\n']));
        }
    }
    let tls = client_config(config.tls, config.authorities.as_deref())
        .map_err(|e| fault(e.to_string()))?;
    let connecting = server.connect(MakeRustlsConnect::new(tls));
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(fault(describe(&error))),
        Err(_) => Err(fault(format!("no answer within {} s", CONNECT.as_secs()))),
    }
}

fn read_password(path: &Path) -> std::io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path)?
        .take(PASSWORD_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// An error and its causes in one line: the crate's own text leaves them out.
pub(super) fn describe(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", db.message(), db.code().code());
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        use tokio_postgres::error::SqlState;
        let text = describe(&error);
        match error.code() {
            Some(&SqlState::DATA_CORRUPTED | &SqlState::INDEX_CORRUPTED) => Self::Damaged(text),
            _ => Self::Unavailable(text),
        }
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct Owned(pub(super) JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}
