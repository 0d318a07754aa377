//! Replays the fuzzer's corpora, so that what it once found stays found.

#[path = "../fuzz/checks.rs"]
mod checks;

fn replay(corpus: &str, check: fn(&[u8])) {
    let folder = format!("{}/fuzz/corpus/{corpus}", env!("CARGO_MANIFEST_DIR"));
    let mut inputs = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus is part of the repository") {
        let path = entry.expect("a readable folder").path();
        println!("{}", path.display());
        check(&std::fs::read(path).expect("a readable input"));
        inputs += 1;
    }
    assert!(inputs > 0, "{folder} is empty");
}

#[test]
fn request_bodies() {
    replay("body", checks::body);
}

#[test]
fn event_streams() {
    replay("events", checks::events);
}

#[test]
fn extra_bodies() {
    replay("extra_body", checks::extra_body);
}

#[test]
fn openai_requests() {
    replay("request", checks::request);
}
