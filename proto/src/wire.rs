//! The generated code, and the border around it: the only file that names it besides
//! encode, decode and the gRPC edges.

mod convert;
mod status;

pub use convert::{WireError, deny_from_wire, deny_to_wire, store_position, store_revision};
pub(crate) use convert::{
    mark_from as mark_from_wire, mark_to as mark_to_wire, rejection_to as rejection_to_wire,
    rejections_from as rejections_from_wire,
};

/// Messages and services of `bodhi.sync.v1`.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated from schema/bodhi/sync/v1, where the comments are"
)]
pub mod sync {
    tonic::include_proto!("bodhi.sync.v1");
}

/// Messages and service of `bodhi.telemetry.v1`.
#[expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "generated from schema/bodhi/telemetry/v1, where the comments are"
)]
pub mod telemetry {
    tonic::include_proto!("bodhi.telemetry.v1");
}

/// Messages and service of `bodhi.inference.v1`.
#[expect(
    missing_docs,
    clippy::all,
    clippy::allow_attributes,
    reason = "generated from schema/bodhi/inference/v1, where the comments are"
)]
pub mod inference {
    tonic::include_proto!("bodhi.inference.v1");
}
