//! What must hold for any input: run by the fuzzer, and over the kept corpora
//! by the ordinary tests.

use bodhi_worker::models::gguf::{self, GgufError, PerLayer};
use bodhi_worker::models::preflight::{self, EngineSettings};

/// Heads of model files: refused in words, or accepted with claims that the file can hold; what is
/// accepted is planned without overflow, and cut anywhere it is refused.
pub(crate) fn gguf(input: &[u8]) {
    let size = input.len() as u64;
    let header = match gguf::read(input, size) {
        Ok(header) => header,
        Err(error) => {
            assert!(!matches!(error, GgufError::Io(_)), "{error}");
            assert!(error.to_string().len() < 8192);
            return;
        }
    };
    assert!(header.tensor_bytes <= size);
    assert!(header.tensors == 0 || header.data_offset + header.tensor_bytes <= size);
    assert!(header.block_count.unwrap_or(0) <= PerLayer::MOST);
    for available in [0, 8 << 30, u64::MAX] {
        if let Ok(plan) = preflight::plan(&header, &EngineSettings::default(), available) {
            assert!(plan.needs.total() <= available);
        }
    }
    let head = header.data_offset.min(size) as usize;
    if header.tensors > 0 {
        let cut = &input[..head.saturating_sub(1)];
        assert!(gguf::read(cut, cut.len() as u64).is_err());
    }
}
