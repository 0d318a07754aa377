//! `bodhi validate`: the gateway's own judgement of manifests, without a gateway.

use std::path::PathBuf;

use bodhi_controller::source::{self, FileProblem};
use bodhi_controller::validate::Validator;
use serde_json::json;

use crate::object_name::DEFAULT_NAMESPACE;
use crate::output::{Answer, printable};

/// Arguments of `bodhi validate`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// A manifest, or a folder of them
    #[arg(short = 'f', long = "file", required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
}

/// Judges each path; any problem makes the exit status 1.
pub(crate) fn run(args: &Args) -> anyhow::Result<Answer> {
    let validator = Validator::new();
    let (mut objects, mut problems) = (Vec::new(), Vec::new());
    for path in &args.paths {
        let found = source::inspect(path, DEFAULT_NAMESPACE, &validator)?;
        objects.extend(found.objects);
        problems.extend(found.problems);
    }
    let valid = problems.is_empty();
    Ok(Answer {
        text: verdict(&objects, &problems),
        json: json!({"valid": valid, "objects": objects, "problems": problems}),
        succeeded: valid,
    })
}

fn verdict(objects: &[String], problems: &[FileProblem]) -> String {
    let mut lines: Vec<String> = problems.iter().map(|p| printable(&p.to_string())).collect();
    lines.push(match (objects.len(), problems.len()) {
        (0, 0) => "no ApiModel, Alias or Secret found".to_owned(),
        (valid, 0) => format!("valid: {valid} object{}", plural(valid)),
        (valid, wrong) => format!(
            "{wrong} problem{}; {valid} object{} without one",
            plural(wrong),
            plural(valid)
        ),
    });
    lines.join("\n") + "\n"
}

fn plural(count: usize) -> &'static str {
    match count {
        1 => "",
        _ => "s",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn judged(manifest: &str) -> Answer {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("team.yaml");
        std::fs::write(&file, manifest).unwrap();
        run(&Args { paths: vec![file] }).unwrap()
    }

    #[test]
    fn a_good_manifest_is_named_and_is_good_news() {
        let answer = judged(
            "{apiVersion: bodhi.dev/v1alpha1, kind: ApiModel, metadata: {name: a},\n spec: \
             {format: openai, auth: {type: Stored}, models: [m]}}",
        );
        assert!(answer.succeeded);
        assert_eq!(answer.json["objects"], json!(["ApiModel/bodhi/a"]));
        assert_eq!(answer.text, "valid: 1 object\n");
    }

    #[test]
    fn a_fault_is_told_with_file_line_and_field() {
        let answer = judged(
            "apiVersion: bodhi.dev/v1alpha1\nkind: ApiModel\nmetadata: {name: a}\nspec:\n  \
             format: openai\n  auth: {type: Stored}\n  forwardAll: true\n",
        );
        assert!(!answer.succeeded);
        let problem = &answer.json["problems"][0];
        assert_eq!(problem["path"], "spec.prefix");
        assert!(problem["line"].as_u64().is_some(), "{problem}");
        assert!(answer.text.contains("team.yaml:"), "{}", answer.text);
        assert_eq!(answer.json["objects"], Value::Array(Vec::new()));
    }

    #[test]
    fn a_path_that_cannot_be_read_is_an_error_that_names_it() {
        let paths = vec![PathBuf::from("no/such/folder")];
        let error = run(&Args { paths }).unwrap_err().to_string();
        assert!(error.contains("no/such/folder"), "{error}");
    }
}
