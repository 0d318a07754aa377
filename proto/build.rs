//! Compiles the schema with protox, so that no protoc has to be installed.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=schema");
    let files = protox::compile(
        [
            "schema/bodhi/inference/v1/inference.proto",
            "schema/bodhi/sync/v1/sync.proto",
            "schema/bodhi/telemetry/v1/telemetry.proto",
        ],
        ["schema"],
    )?;
    tonic_prost_build::configure()
        .bytes(".bodhi.sync.v1")
        .bytes(".bodhi.inference.v1.InlineMedia")
        .compile_fds(files)?;
    Ok(())
}
