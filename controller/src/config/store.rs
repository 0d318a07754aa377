//! Where the controller keeps what it must remember: flags as given, and what they mean.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use bodhi_proto::secret::Secret;
use clap::Args;

use crate::store::seal::RingFile;
use crate::store::{
    Database, Password, PostgresConfig, PostgresConfigError, RingFrom, StoreConfig,
};

/// Flags of the store, shared by `bodhi-controller` and `bodhi up`.
#[derive(Clone, Default, Args)]
pub struct StoreFlags {
    /// Database: postgres://USER@HOST:PORT/DATABASE [default: a SQLite file in the data folder].
    /// TLS with the server's name verified, unless ?sslmode= says otherwise
    #[arg(
        long,
        env = "BODHI_STORE",
        value_name = "URL",
        value_parser = secret,
        hide_env_values = true
    )]
    pub store: Option<Secret>,
    /// Certificates (PEM) of the authorities that sign the database's certificate
    /// [default: the system's]
    #[arg(long, env = "BODHI_STORE_CA", value_name = "FILE")]
    pub store_ca: Option<PathBuf>,
    /// File that holds the database's password; read for each connection
    #[arg(long, env = "BODHI_STORE_PASSWORD_FILE", value_name = "FILE")]
    pub store_password_file: Option<PathBuf>,
    /// The database's password
    #[arg(
        long,
        env = "BODHI_STORE_PASSWORD",
        value_name = "PASSWORD",
        value_parser = secret,
        hide_env_values = true,
        hide = true
    )]
    pub store_password: Option<Secret>,
    /// File of the master keys that seal stored provider keys; needed with a database that several
    /// controllers share [default: `master.key` in the data folder, made at the first start]
    #[arg(long, env = "BODHI_MASTER_KEY", value_name = "FILE")]
    pub master_key: Option<PathBuf>,
    /// In a cluster: the Secret of the release's namespace that holds the master keys as
    /// `master.key`; an empty one is filled with a new key
    #[arg(
        long,
        env = "BODHI_MASTER_KEY_SECRET",
        value_name = "NAME",
        conflicts_with = "master_key"
    )]
    pub master_key_secret: Option<String>,
}

fn secret(text: &str) -> Result<Secret, Infallible> {
    Ok(Secret::new(text))
}

/// Why there is no store; the text names the flag and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreFlagError {
    /// Another database.
    #[error(
        "--store must read postgres://USER@HOST:PORT/DATABASE; without it everything is kept in a \
         SQLite file in the data folder"
    )]
    Scheme,
    /// The flag would do nothing.
    #[error("{0} goes with --store postgres://…")]
    Unused(&'static str),
    /// A key that one controller made would be unknown to the others.
    #[error(
        "--store postgres://… needs --master-key FILE, the same for every controller: one line, an \
         id and 32 random bytes in base64, such as the output of \
         'echo \"k1 $(head -c 32 /dev/urandom | base64)\"', readable by this user only; in a cluster \
         --master-key-secret NAME does as well"
    )]
    NoMasterKey,
    /// It is a URL of PostgreSQL, but not one to use.
    #[error(transparent)]
    Postgres(#[from] PostgresConfigError),
}

impl StoreFlags {
    /// Judges the flags. `data` is the data folder.
    ///
    /// # Errors
    /// [`StoreFlagError`].
    pub fn judge(self, data: &Path) -> Result<StoreConfig, StoreFlagError> {
        let given = match (self.master_key, self.master_key_secret) {
            (Some(path), _) => Some(RingFrom::File(RingFile::Given(path))),
            (None, secret) => secret.map(RingFrom::Secret),
        };
        let Some(url) = self.store else {
            let unused = [
                (self.store_ca.is_some(), "--store-ca"),
                (self.store_password_file.is_some(), "--store-password-file"),
                (self.store_password.is_some(), "BODHI_STORE_PASSWORD"),
            ];
            if let Some((_, flag)) = unused.into_iter().find(|(given, _)| *given) {
                return Err(StoreFlagError::Unused(flag));
            }
            return Ok(StoreConfig {
                database: Database::Sqlite(data.join("bodhi.db")),
                master_keys: given
                    .unwrap_or_else(|| RingFrom::File(RingFile::Own(data.join("master.key")))),
            });
        };
        let text = url.expose();
        if !text.starts_with("postgres://") && !text.starts_with("postgresql://") {
            return Err(StoreFlagError::Scheme);
        }
        let password = match (self.store_password, self.store_password_file) {
            (None, None) => Password::None,
            (Some(text), None) => Password::Text(text),
            (None, Some(file)) => Password::File(file),
            (Some(_), Some(_)) => return Err(PostgresConfigError::TwoPasswords.into()),
        };
        let config = PostgresConfig::parse(&url, password, self.store_ca)?;
        Ok(StoreConfig {
            database: Database::Postgres(Box::new(config)),
            master_keys: given.ok_or(StoreFlagError::NoMasterKey)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(flags: StoreFlags) -> Result<StoreConfig, StoreFlagError> {
        flags.judge(Path::new("/data"))
    }

    fn at(url: &str) -> StoreFlags {
        StoreFlags {
            store: Some(Secret::new(url)),
            ..StoreFlags::default()
        }
    }

    #[test]
    fn without_a_word_everything_is_in_the_data_folder() {
        let config = judge(StoreFlags::default()).unwrap();
        assert!(matches!(config.database, Database::Sqlite(p) if p == Path::new("/data/bodhi.db")));
        let own = RingFile::Own("/data/master.key".into());
        assert!(matches!(config.master_keys, RingFrom::File(file) if file == own));
        let given = StoreFlags {
            master_key: Some("/etc/keys".into()),
            ..StoreFlags::default()
        };
        let config = judge(given).unwrap();
        let file = RingFile::Given("/etc/keys".into());
        assert!(matches!(config.master_keys, RingFrom::File(given) if given == file));
    }

    #[test]
    fn a_shared_database_wants_shared_master_keys() {
        let url = "postgres://u@db/b";
        assert_eq!(judge(at(url)).unwrap_err(), StoreFlagError::NoMasterKey);
        let whole = StoreFlags {
            master_key: Some("/etc/keys".into()),
            ..at(url)
        };
        assert!(matches!(
            judge(whole).unwrap().database,
            Database::Postgres(_)
        ));
    }

    #[test]
    fn what_cannot_be_meant_names_its_flag() {
        assert_eq!(
            judge(at("mysql://u@db/b")).unwrap_err(),
            StoreFlagError::Scheme
        );
        let ca = StoreFlags {
            store_ca: Some("ca.crt".into()),
            ..StoreFlags::default()
        };
        assert_eq!(judge(ca).unwrap_err(), StoreFlagError::Unused("--store-ca"));
        let twice = StoreFlags {
            store_password: Some(Secret::new("a")),
            store_password_file: Some("b".into()),
            ..at("postgres://u@db/b")
        };
        let error = judge(twice).unwrap_err().to_string();
        assert!(error.contains("--store-password-file"), "{error}");
    }
}
