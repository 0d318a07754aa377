//! Replays the fuzzer's corpora, so that what it once found stays found.

#[path = "../fuzz/checks.rs"]
mod checks;

#[test]
fn heads_of_model_files() {
    let folder = format!("{}/fuzz/corpus/gguf", env!("CARGO_MANIFEST_DIR"));
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is part of the repository") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        checks::gguf(&std::fs::read(path).expect("a readable input"));
        inputs += 1;
    }
    assert!(inputs > 0, "{folder} is empty");
}
