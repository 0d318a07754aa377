//! Manifests for tests: what a team would write, in front of a scripted provider.

use std::fmt::Write as _;

use crate::scripted::KEY;

/// One ApiModel with its Secret.
#[derive(Debug, Clone)]
pub struct ApiModel<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `spec.format`.
    pub format: &'a str,
    /// `spec.baseUrl`.
    pub base_url: String,
    /// `spec.models`.
    pub models: &'a [&'a str],
    /// `spec.prefix` with `forwardAll`.
    pub prefix: Option<&'a str>,
    /// `spec.stripPrefix`.
    pub strip_prefix: bool,
    /// The provider's key; `None` for `auth: None`.
    pub key: Option<&'a str>,
    /// More lines of `spec`, as YAML.
    pub more: &'a str,
}

impl<'a> ApiModel<'a> {
    /// An ApiModel that serves these models with [`KEY`].
    pub fn new(name: &'a str, format: &'a str, base_url: String, models: &'a [&'a str]) -> Self {
        Self {
            name,
            format,
            base_url,
            models,
            prefix: None,
            strip_prefix: true,
            key: Some(KEY),
            more: "",
        }
    }

    /// An ApiModel that forwards every model under the prefix, with or without it.
    pub fn forwarding(
        name: &'a str,
        format: &'a str,
        base_url: String,
        prefix: &'a str,
        strip_prefix: bool,
    ) -> Self {
        Self {
            prefix: Some(prefix),
            strip_prefix,
            ..Self::new(name, format, base_url, &[])
        }
    }

    /// The object and its Secret as YAML.
    pub fn yaml(&self) -> String {
        let Self {
            name,
            format,
            base_url,
            ..
        } = self;
        let mut yaml = format!(
            "apiVersion: bodhi.dev/v1alpha1\nkind: ApiModel\nmetadata: {{name: {name}}}\nspec:\n  format: {format}\n  baseUrl: {base_url}\n"
        );
        let mut line = |text: &str| {
            let _ = writeln!(yaml, "  {text}");
        };
        if base_url.starts_with("http://") {
            line("insecureHttp: true");
        }
        match self.key {
            Some(_) => line(&format!(
                "auth: {{type: SecretRef, secretRef: {{name: {name}, key: apiKey}}}}"
            )),
            None => line("auth: {type: None}"),
        }
        if let Some(prefix) = self.prefix {
            line(&format!("prefix: '{prefix}'"));
            line("forwardAll: true");
            line(&format!("stripPrefix: {}", self.strip_prefix));
        }
        if !self.models.is_empty() {
            line(&format!("models: {}", serde_json::json!(self.models)));
        }
        for more in self.more.lines() {
            line(more);
        }
        if let Some(key) = self.key {
            yaml.push_str("---\napiVersion: v1\nkind: Secret\nmetadata:\n");
            let _ = writeln!(
                yaml,
                "  name: {name}\n  labels: {{bodhi.dev/credential: \"true\"}}\nstringData: {{apiKey: '{key}'}}"
            );
        }
        yaml
    }
}

/// An Alias with one route.
pub fn alias(name: &str, served: &str, api_model: &str, model: &str) -> String {
    format!(
        "apiVersion: bodhi.dev/v1alpha1\nkind: Alias\nmetadata: {{name: {name}}}\nspec:\n  model: '{served}'\n  \
         target:\n    type: Api\n    api: {{routes: [{{apiModel: {api_model}, model: '{model}'}}]}}\n"
    )
}

/// An Alias that runs the model at `source` itself. `local` are more fields of `spec.target.local`,
/// `more` lines of `spec`, both as YAML.
pub fn local(name: &str, source: &str, local: &str, more: &str) -> String {
    let mut yaml = format!(
        "apiVersion: bodhi.dev/v1alpha1\nkind: Alias\nmetadata: {{name: {name}}}\nspec:\n  \
         target: {{type: Local, local: {{source: '{source}', {local}}}}}\n"
    );
    for line in more.lines() {
        let _ = writeln!(yaml, "  {line}");
    }
    yaml
}

/// Everything a scripted provider at `url` has, under the providers' own names, and its scripts
/// (`fault:…`, `replay:…`) by format: OpenAI's as they are, Anthropic's under `a/`, Gemini's under
/// `g/` and those of Responses under `r/`. The SDK suites want the bare names.
pub fn everything(url: &str) -> Vec<String> {
    let openai = format!("{url}/openai/v1");
    let anthropic = format!("{url}/anthropic/v1");
    let gemini = format!("{url}/gemini/v1beta");
    let chat = &["gpt-4o", "gpt-4o-mini", "text-embedding-3-small"];
    let claude = &[
        "claude-opus-4-5",
        "claude-sonnet-4-5",
        "claude-haiku-4-5",
        "claude-opus-4-1",
        "claude-sonnet-4-0",
    ];
    let google = &[
        "gemini-2.5-pro",
        "gemini-2.5-flash",
        "gemini-2.5-flash-lite",
        "gemini-embedding-001",
    ];
    [
        ApiModel::new("openai", "openai", openai.clone(), chat),
        ApiModel::new("responses", "openai_responses", openai.clone(), &["gpt-4o"]),
        ApiModel::new("anthropic", "anthropic", anthropic.clone(), claude),
        ApiModel::new("gemini", "gemini", gemini.clone(), google),
        ApiModel::forwarding("openai-faults", "openai", openai.clone(), "fault:", false),
        ApiModel::forwarding("openai-replay", "openai", openai.clone(), "replay:", false),
        ApiModel::forwarding("openai-prefixed", "openai", openai.clone(), "o/", true),
        ApiModel::forwarding("responses-prefixed", "openai_responses", openai, "r/", true),
        ApiModel::forwarding("anthropic-prefixed", "anthropic", anthropic, "a/", true),
        ApiModel::forwarding("gemini-prefixed", "gemini", gemini, "g/", true),
    ]
    .iter()
    .map(ApiModel::yaml)
    .chain([alias("fast", "fast", "openai", "gpt-4o-mini")])
    .collect()
}
