//! Compiles the C++ border to llama.cpp's `common` library (`shim/`), with feature `llama`.
//!
//! `llama-cpp-sys-2` builds and links llama.cpp but names no header folder. It does name a
//! folder of its output, where CMake's cache says which source tree was built.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim");
    #[cfg(feature = "llama")]
    shim::compile();
}

#[cfg(feature = "llama")]
mod shim {
    use std::path::{Path, PathBuf};
    use std::{env, fs};

    pub(super) fn compile() {
        let source = llama_source();
        cc::Build::new()
            .cpp(true)
            .std("c++17")
            .warnings(false) // of llama.cpp's headers
            .file("shim/chat.cpp")
            .include("shim")
            .include(&source)
            .include(source.join("common"))
            .include(source.join("include"))
            .include(source.join("ggml/include"))
            .include(source.join("src"))
            .include(source.join("vendor"))
            .compile("bodhi_chat_shim");
    }

    /// The tree of llama.cpp that was built.
    fn llama_source() -> PathBuf {
        // OUT/lib/cmake or OUT/lib64/cmake, of llama-cpp-sys-2.
        let installed = env::var("DEP_LLAMA_GGML_CMAKE_DIR")
            .expect("llama-cpp-sys-2 names the folder of its CMake packages");
        let out = Path::new(&installed)
            .ancestors()
            .nth(2)
            .expect("the folder lies two levels inside OUT_DIR");
        let cache = out.join("build/CMakeCache.txt");
        let cache = fs::read_to_string(&cache)
            .unwrap_or_else(|error| panic!("{}: {error}", cache.display()));
        let source = cache
            .lines()
            .find_map(|line| line.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="))
            .expect("CMake's cache names its source folder");
        PathBuf::from(source)
    }
}
