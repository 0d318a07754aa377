//! The admin API for whoever runs commands where the controller runs: a Unix socket of mode 0600.
//!
//! The system says who connects, so no token is needed, and there has to be none to make the first:
//! a process of our own user is `admin`. It could read the database as well.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Extension;
use axum::{Router, serve};
use bodhi_net::unix;
use bodhi_proto::names::TokenId;
use bodhi_proto::snapshot::{Scope, Token, TokenHash, TokenLimits};
use tokio::net::UnixStream;

use super::auth::Caller;
use crate::store::TokenRecord;

/// Marks the requests that came in by the socket. Nothing in a request can set it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Local;

/// Serves a [`router`](super::router) at `path` for as long as the process lives. A socket that a
/// dead process left behind is replaced.
///
/// # Errors
/// When the path cannot be listened at.
pub async fn serve_socket(router: Router, path: &Path) -> Result<(), unix::BindError> {
    let listener = Listener(unix::Listener::bind(path).await?);
    let router = router.layer(Extension(Local));
    tokio::spawn(async move {
        if let Err(error) = serve(listener, router).await {
            tracing::error!(%error, "the admin API's socket ended");
        }
    });
    Ok(())
}

/// The caller behind it, as a token of that scope would make them. The store holds none such.
pub(super) fn caller() -> Caller {
    let token = Token {
        id: TokenId::parse("admin-socket").expect("letters and a dash"),
        hash: TokenHash([0; 32]),
        owner: "admin".into(),
        scope: Scope::Admin,
        expires: None,
        models: None,
        output_caps: Vec::new(),
        limits: TokenLimits::default(),
    };
    Caller {
        record: TokenRecord {
            token: Arc::new(token),
            name: "admin socket".to_owned(),
            created: 0,
            revoked: None,
            change_seq: 0,
        },
    }
}

struct Listener(unix::Listener);

impl serve::Listener for Listener {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (UnixStream, ()) {
        loop {
            match self.0.accept().await {
                Ok(stream) => return (stream, ()),
                Err(error) => {
                    // Out of descriptors, mostly: go on, slowly.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<()> {
        Ok(())
    }
}
