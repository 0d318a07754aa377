//! Who may call what.

use bodhi_net::identity::{Peer, Role};
use tonic::{Request, Status};

/// Refuses callers whose certificate names none of these roles. Within the process and on a socket
/// that only the same user reaches, the way is the proof, and there is no certificate.
pub(super) fn permit<T>(request: &Request<T>, roles: &[Role]) -> Result<(), Status> {
    match request.extensions().get::<Peer>() {
        None => Ok(()),
        Some(peer) if peer.is_one_of(roles) => Ok(()),
        Some(_) => {
            let roles: Vec<String> = roles.iter().map(ToString::to_string).collect();
            let roles = roles.join(" or ");
            Err(Status::permission_denied(format!("this is for a {roles}")))
        }
    }
}
