//! The gRPC services themselves: parse, hand on, answer.

use std::sync::Arc;

use bodhi_net::identity::Role;
use bodhi_proto::names::ObjectRef;
use bodhi_proto::wire::sync as pb;
use bodhi_proto::wire::sync::config_sync_server::ConfigSync;
use bodhi_proto::wire::sync::responses_server::Responses;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::callers::permit;
use super::hub::Hub;
use super::owners::{OwnersError, ResponseOwner, ResponseOwners};
use super::session;

/// Longest id of a response, in bytes; the data plane's own limit for paths.
const ID_MAX: usize = 256;
/// Longest name of an owner, in bytes.
const OWNER_MAX: usize = 4096;

pub(super) struct SyncService(pub(super) Arc<Hub>);

#[tonic::async_trait]
impl ConfigSync for SyncService {
    type SyncStream = ReceiverStream<Result<pb::FromController, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<pb::FromDataPlane>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        permit(&request, &[Role::DataPlane])?;
        let (out, outbound) = mpsc::channel(1);
        tokio::spawn(session::run(self.0.open(), request.into_inner(), out));
        Ok(Response::new(ReceiverStream::new(outbound)))
    }
}

pub(super) struct ResponsesService(pub(super) Arc<dyn ResponseOwners>);

#[tonic::async_trait]
impl Responses for ResponsesService {
    async fn record(
        &self,
        request: Request<pb::RecordRequest>,
    ) -> Result<Response<pb::RecordReply>, Status> {
        permit(&request, &[Role::DataPlane])?;
        let request = request.into_inner();
        let id = checked_id(request.id)?;
        let owner = request
            .owner
            .ok_or_else(|| Status::invalid_argument("owner is missing"))?;
        if owner.owner.len() > OWNER_MAX {
            return Err(Status::invalid_argument("owner.owner is too long"));
        }
        let upstream = ObjectRef::parse(&owner.upstream)
            .map_err(|e| Status::invalid_argument(format!("owner.upstream: {e}")))?;
        let owner = ResponseOwner {
            owner: owner.owner,
            upstream,
        };
        self.0.record(id, owner).await.map_err(unavailable)?;
        Ok(Response::new(pb::RecordReply {}))
    }

    async fn find(
        &self,
        request: Request<pb::FindRequest>,
    ) -> Result<Response<pb::FindReply>, Status> {
        permit(&request, &[Role::DataPlane])?;
        let id = checked_id(request.into_inner().id)?;
        let found = self.0.find(id).await.map_err(unavailable)?;
        Ok(Response::new(pb::FindReply {
            owner: found.map(|found| pb::ResponseOwner {
                owner: found.owner,
                upstream: found.upstream.to_string(),
            }),
        }))
    }
}

fn checked_id(id: String) -> Result<String, Status> {
    match id.len() {
        1..=ID_MAX => Ok(id),
        _ => Err(Status::invalid_argument("id must have 1 to 256 bytes")),
    }
}

fn unavailable(error: OwnersError) -> Status {
    Status::unavailable(error.to_string())
}
