//! The first token, where nobody has one yet: by the controller's socket, as `kubectl exec` gives it.

use std::process::Command;

use bodhi_tests::apart::Apart;
use bodhi_tests::manifests::ApiModel;
use bodhi_tests::process::binary;
use bodhi_tests::scripted::Scripted;

#[test]
fn whoever_runs_bodhi_beside_the_controller_needs_no_token() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("admin.sock");
    let provider = Scripted::start().unwrap();
    let url = format!("{}/openai/v1", provider.url());
    let model = ApiModel::new("openai", "openai", url, &["gpt-4o"]).yaml();
    let flags = ["--admin-socket", socket.to_str().unwrap()];
    let mut programs = Apart::with_controller(&[model], &flags).unwrap();

    let mut bodhi = Command::new(binary("bodhi").unwrap());
    bodhi
        .args(["token", "create", "--name", "first"])
        .env_clear()
        .env("BODHI_ADMIN_SOCKET", &socket);
    let output = bodhi.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let token = String::from_utf8(output.stdout).unwrap();
    programs.token = token.trim().to_owned();
    bodhi_tests::process::eventually("the token to work", || {
        let body = r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hi"}]}"#;
        let answer = programs.post("/v1/chat/completions", body).ok()?;
        (answer.status == 200).then_some(())
    })
    .unwrap();
}
