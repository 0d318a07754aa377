//! The tensor types of ggml: how many elements make a block, and how many bytes it takes.
//!
//! From `ggml/include/ggml.h` (numbers) and `ggml/src/ggml-common.h` (block layouts). Numbers that are
//! missing were taken out of the format; llama.cpp refuses them too.

/// Elements and bytes of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) elements: u64,
    pub(super) bytes: u64,
}

/// The block of the type numbered `id`, if the format still has it.
pub(super) fn block(id: u32) -> Option<Block> {
    let (elements, bytes) = match id {
        0 => (1, 4),                    // F32
        1 | 30 => (1, 2),               // F16, BF16
        2 => (32, 2 + 16),              // Q4_0
        3 => (32, 4 + 16),              // Q4_1
        6 => (32, 2 + 4 + 16),          // Q5_0
        7 => (32, 4 + 4 + 16),          // Q5_1
        8 => (32, 2 + 32),              // Q8_0
        9 => (32, 4 + 32),              // Q8_1
        10 => (256, 4 + 16 + 64),       // Q2_K
        11 => (256, 2 + 64 + 32 + 12),  // Q3_K
        12 => (256, 4 + 12 + 128),      // Q4_K
        13 => (256, 4 + 12 + 128 + 32), // Q5_K
        14 => (256, 2 + 16 + 192),      // Q6_K
        15 => (256, 4 + 256 + 32),      // Q8_K
        16 => (256, 2 + 64),            // IQ2_XXS
        17 => (256, 2 + 64 + 8),        // IQ2_XS
        18 => (256, 2 + 96),            // IQ3_XXS
        19 => (256, 2 + 32 + 16),       // IQ1_S
        20 => (32, 2 + 16),             // IQ4_NL
        21 => (256, 2 + 104 + 4),       // IQ3_S
        22 => (256, 2 + 64 + 16),       // IQ2_S
        23 => (256, 2 + 2 + 4 + 128),   // IQ4_XS
        24 => (1, 1),                   // I8
        25 => (1, 2),                   // I16
        26 => (1, 4),                   // I32
        27 | 28 => (1, 8),              // I64, F64
        29 => (256, 32 + 16 + 8),       // IQ1_M
        34 => (256, 2 + 4 + 48),        // TQ1_0
        35 => (256, 2 + 64),            // TQ2_0
        39 => (32, 1 + 16),             // MXFP4
        40 => (64, 4 + 32),             // NVFP4
        41 => (128, 2 + 16),            // Q1_0
        42 => (64, 2 + 16),             // Q2_0
        _ => return None,
    };
    Some(Block { elements, bytes })
}

/// What `general.file_type` (llama.cpp's `llama_ftype`) is called.
pub(super) fn file_type_name(id: u32) -> Option<&'static str> {
    Some(match id & !GUESSED {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        39 => "NVFP4",
        40 => "Q1_0",
        41 => "Q2_0",
        _ => return None,
    })
}

/// The bit of `llama_ftype` that says that the type was guessed from the tensors.
const GUESSED: u32 = 1024;
