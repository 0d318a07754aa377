//! `--service-account`: which ServiceAccounts of the cluster may call, and what.

use bodhi_proto::names::ServiceAccountName;
use bodhi_proto::snapshot::{Globs, MappedAccount, Scope};
use clap::Args;

/// Most ServiceAccounts; a policy holds no more.
const ACCOUNTS_MAX: usize = 1024;

/// Flags of who may call without a token of ours.
#[derive(Debug, Clone, Default, Args)]
pub struct AccountFlags {
    /// A ServiceAccount whose projected tokens (audience `bodhi`) are credentials, with what it may
    /// do, such as team-a/web=user or team-a/web=user:gpt-*,qwen*; may be given several times
    #[arg(long = "service-account", value_name = "NS/NAME=SCOPE[:GLOB,…]")]
    pub service_accounts: Vec<String>,
}

/// Flags of the managed authority (`--sync-names`).
#[derive(Debug, Clone, Default, Args)]
pub struct AuthorityFlags {
    /// The Secret in the release's namespace that keeps the managed authority; it has to exist
    #[arg(long, value_name = "NAME", default_value = "bodhi-ca")]
    pub authority_secret: String,
    /// The ServiceAccount of the release's data planes, as NAMESPACE/NAME
    /// [default: `bodhi-dataplane` in the release's namespace]
    #[arg(long, env = "BODHI_DATAPLANE_ACCOUNT", value_name = "NAMESPACE/NAME")]
    pub dataplane_account: Option<String>,
}

impl AuthorityFlags {
    /// Whose pods are data planes.
    ///
    /// # Errors
    /// [`AccountError`].
    pub fn data_plane(&self, release_namespace: &str) -> Result<ServiceAccountName, AccountError> {
        let account = match &self.dataplane_account {
            Some(account) => account.clone(),
            None => format!("{release_namespace}/bodhi-dataplane"),
        };
        ServiceAccountName::parse(&account).map_err(|error| {
            AccountError(vec![format!(
                "--dataplane-account must read NAMESPACE/NAME, such as bodhi/bodhi-dataplane; in \
                 '{account}' it {error}"
            )])
        })
    }
}

/// Flags that cannot be acted on: all of them, each with what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct AccountError(Vec<String>);

impl AccountFlags {
    /// The ServiceAccounts, in order of their names.
    ///
    /// # Errors
    /// [`AccountError`].
    pub fn callers(&self) -> Result<Vec<MappedAccount>, AccountError> {
        let mut callers: Vec<MappedAccount> = Vec::new();
        let mut faults = Vec::new();
        for text in &self.service_accounts {
            match mapped(text) {
                Ok(mapped) if callers.iter().any(|c| c.account == mapped.account) => {
                    let account = &mapped.account;
                    faults.push(format!("--service-account {account} is given twice"));
                }
                Ok(mapped) => callers.push(mapped),
                Err(why) => faults.push(format!(
                    "--service-account must read NAMESPACE/NAME=SCOPE[:GLOB,…], such as \
                     team-a/web=user:gpt-*; it reads '{text}': {why}"
                )),
            }
        }
        if callers.len() > ACCOUNTS_MAX {
            let given = callers.len();
            faults.push(format!(
                "--service-account is given {given} times; the limit is {ACCOUNTS_MAX}"
            ));
        }
        callers.sort_by(|a, b| a.account.cmp(&b.account));
        match faults.is_empty() {
            true => Ok(callers),
            false => Err(AccountError(faults)),
        }
    }
}

fn mapped(text: &str) -> Result<MappedAccount, String> {
    let (account, grant) = text.split_once('=').ok_or("'=' is missing")?;
    if !account.contains('/') {
        return Err("the namespace is missing".into());
    }
    let account = ServiceAccountName::parse(account)
        .map_err(|error| format!("the ServiceAccount's name {error}"))?;
    // Globs may hold colons: models are called qwen3:4b.
    let (scope, globs) = match grant.split_once(':') {
        Some((scope, globs)) => (scope, Some(globs)),
        None => (grant, None),
    };
    let scope = Scope::parse(scope)
        .ok_or_else(|| format!("'{scope}' is none of user, power_user and admin"))?;
    let models = match globs {
        None => None,
        Some(globs) if globs.split(',').any(str::is_empty) => {
            return Err("a glob is empty; without any, leave out the ':'".into());
        }
        Some(globs) => Some(Globs::new(globs.split(','))),
    };
    Ok(MappedAccount {
        account,
        scope,
        models,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(flags: &[&str]) -> Result<Vec<MappedAccount>, String> {
        let flags = AccountFlags {
            service_accounts: flags.iter().map(|flag| (*flag).to_owned()).collect(),
        };
        flags.callers().map_err(|error| error.to_string())
    }

    #[test]
    fn accounts_are_mapped_to_scopes_and_globs() {
        let flags = ["team-b/web=power_user", "team-a/web=user:qwen3:*,gpt-?"];
        let callers = callers(&flags).unwrap();
        let names: Vec<_> = callers.iter().map(|c| c.account.to_string()).collect();
        assert_eq!(names, ["team-a/web", "team-b/web"]);
        assert_eq!(callers[1].scope, Scope::PowerUser);
        assert_eq!(callers[1].models, None);
        let models = callers[0].models.as_ref().unwrap();
        assert!(models.matches("qwen3:4b") && models.matches("gpt-4") && !models.matches("o1"));
    }

    #[test]
    fn data_planes_run_as_one_account() {
        let of = |account: Option<&str>| {
            let flags = AuthorityFlags {
                dataplane_account: account.map(str::to_owned),
                ..AuthorityFlags::default()
            };
            flags.data_plane("bodhi").map(|account| account.to_string())
        };
        assert_eq!(of(None).unwrap(), "bodhi/bodhi-dataplane");
        assert_eq!(of(Some("a/plane")).unwrap(), "a/plane");
        let error = of(Some("A/plane")).unwrap_err().to_string();
        assert!(
            error.starts_with("--dataplane-account must read"),
            "{error}"
        );
    }

    #[test]
    fn all_faults_are_told_at_once() {
        let error = callers(&[
            "team-a/web=user",
            "web=user",
            "team-a/web",
            "team-a/web=root",
            "team-a/web=user:",
            "team-a/web=user:a,,b",
            "Team/web=user",
            "team-a/web=admin",
        ])
        .unwrap_err();
        for (line, why) in error.lines().zip([
            "reads 'web=user': the namespace is missing",
            "reads 'team-a/web': '=' is missing",
            "'root' is none of user, power_user and admin",
            "reads 'team-a/web=user:': a glob is empty",
            "reads 'team-a/web=user:a,,b': a glob is empty",
            "'T'",
            "--service-account team-a/web is given twice",
        ]) {
            assert!(line.contains(why), "{line}");
        }
        assert_eq!(error.lines().count(), 7);
        let many: Vec<_> = (0..1025).map(|n| format!("a/s{n}=user")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(callers(&many).unwrap_err().contains("given 1025 times"));
        assert_eq!(callers(&many[1..]).unwrap().len(), 1024);
    }
}
