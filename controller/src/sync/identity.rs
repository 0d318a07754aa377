//! `Identity.SignCertificate`: what a pod without a certificate may ask for.

use std::sync::Arc;

use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::identity_server::Identity;
use bytes::Bytes;
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use crate::authority::{Refused, Seller, SignError};

/// Longest message: a token and a signing request, each with room.
pub(super) const MESSAGE_MAX: usize = 16 << 10;

pub(super) struct IdentityService(pub(super) Arc<Seller>);

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn sign_certificate(
        &self,
        request: Request<pb::SignCertificateRequest>,
    ) -> Result<Response<pb::SignCertificateReply>, Status> {
        let asked = request.into_inner();
        let now = Timestamp::now().as_second();
        match self.0.sell(&asked.token, &asked.signing_request, now) {
            Ok(sold) => {
                tracing::info!(subject = ?sold.subject, "a certificate was signed");
                let authorities = sold.certified.authorities.iter();
                Ok(Response::new(pb::SignCertificateReply {
                    chain: vec![Bytes::copy_from_slice(&sold.certified.certificate)],
                    authorities: authorities.map(|der| Bytes::copy_from_slice(der)).collect(),
                }))
            }
            Err(reason) => {
                tracing::warn!(%reason, "a certificate was refused");
                Err(status(&reason))
            }
        }
    }
}

fn status(refused: &Refused) -> Status {
    let text = refused.to_string();
    match refused {
        Refused::Token(_) => Status::unauthenticated(text),
        Refused::Stranger(_) => Status::permission_denied(text),
        Refused::Request(_) => Status::invalid_argument(text),
        Refused::TooMany(_) => Status::resource_exhausted(text),
        Refused::NoKeys | Refused::Sign(SignError::NoRoot) => Status::unavailable(text),
        Refused::Sign(SignError::Make(_) | SignError::Use(_)) => Status::internal(text),
    }
}

#[cfg(test)]
mod tests;
