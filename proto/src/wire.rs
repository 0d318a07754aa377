//! The generated code, and what is needed to step over its border: the only file
//! that names it besides encode, decode and the gRPC edges.

/// Messages and services of `bodhi.sync.v1`.
#[expect(
    missing_docs,
    clippy::all,
    reason = "generated from schema/bodhi/sync/v1, where the comments are"
)]
pub mod sync {
    tonic::include_proto!("bodhi.sync.v1");
}

/// Messages and service of `bodhi.telemetry.v1`.
#[expect(
    missing_docs,
    clippy::all,
    reason = "generated from schema/bodhi/telemetry/v1, where the comments are"
)]
pub mod telemetry {
    tonic::include_proto!("bodhi.telemetry.v1");
}
