use std::fs;

use super::*;
use crate::store::SqliteStore;
use crate::store::seal::{KeyRing, Keys};

const RING: &str = "one AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";

fn model(name: &str, id: &str) -> String {
    format!(
        "apiVersion: bodhi.dev/v1alpha1\nkind: ApiModel\nmetadata: {{name: {name}}}\nspec:\n  \
         format: openai\n  auth: {{type: None}}\n  models: [{id}]\n"
    )
}

mod set {
    //! The pure half: listings in, outcomes out.
    use super::*;

    struct Folder {
        set: FileSet,
        validator: Validator,
        files: BTreeMap<Origin, super::super::set::Contents>,
    }

    impl Folder {
        fn new() -> Self {
            Self {
                set: FileSet::default(),
                validator: Validator::new(),
                files: BTreeMap::new(),
            }
        }

        fn write(&mut self, file: &str, text: &str) {
            self.files
                .insert(Origin::File(file.into()), Ok(text.into()));
        }

        fn remove(&mut self, file: &str) {
            self.files.remove(&Origin::File(file.into()));
        }

        fn look(&mut self) -> Outcome {
            let reader = Reader {
                validator: &self.validator,
                namespace: "bodhi",
            };
            self.set.update(self.files.clone(), &reader)
        }

        /// Applied and deleted objects, and problems, as text.
        fn told(&mut self) -> (Vec<String>, Vec<String>, Vec<String>) {
            let outcome = self.look();
            let names =
                |objects: &[(Key, Found)]| objects.iter().map(|(key, _)| key.to_string()).collect();
            let problems = outcome.problems.iter().map(ToString::to_string).collect();
            (names(&outcome.applied), names(&outcome.deleted), problems)
        }
    }

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn new_changed_and_gone_objects_are_told_apart() {
        let mut folder = Folder::new();
        folder.write(
            "a.yaml",
            &format!("{}---\n{}", model("one", "m"), model("two", "m")),
        );
        let both = texts(&["ApiModel/bodhi/one", "ApiModel/bodhi/two"]);
        assert_eq!(folder.told(), (both, vec![], vec![]));
        assert_eq!(folder.told(), (vec![], vec![], vec![]));
        folder.write("a.yaml", &model("two", "m2"));
        let (one, two) = (
            texts(&["ApiModel/bodhi/one"]),
            texts(&["ApiModel/bodhi/two"]),
        );
        assert_eq!(folder.told(), (two.clone(), one, vec![]));
        folder.remove("a.yaml");
        assert_eq!(folder.told(), (vec![], two, vec![]));
    }

    #[test]
    fn a_comment_or_another_order_of_keys_changes_nothing() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &model("one", "m"));
        folder.look();
        folder.write("a.yaml", &format!("# hello\n{}", model("one", "m")));
        assert_eq!(folder.told(), (vec![], vec![], vec![]));
    }

    #[test]
    fn a_renamed_file_changes_nothing() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &model("one", "m"));
        folder.look();
        folder.remove("a.yaml");
        folder.write("b.yaml", &model("one", "m"));
        assert_eq!(folder.told(), (vec![], vec![], vec![]));
    }

    #[test]
    fn a_faulty_object_keeps_its_last_form_and_its_neighbours_change() {
        let mut folder = Folder::new();
        folder.write(
            "a.yaml",
            &format!("{}---\n{}", model("one", "m"), model("two", "m")),
        );
        folder.look();
        let faulty = model("one", "m").replace("format: openai", "fromat: openai");
        folder.write("a.yaml", &format!("{faulty}---\n{}", model("two", "m2")));
        let (applied, deleted, problems) = folder.told();
        assert_eq!((applied, deleted), (texts(&["ApiModel/bodhi/two"]), vec![]));
        assert_eq!(
            problems,
            [
                "a.yaml:4:1: ApiModel/bodhi/one spec.format: Required value",
                "a.yaml:5:3: ApiModel/bodhi/one spec.fromat: unknown field; did you mean \"format\"?",
            ]
        );
        let kept = folder.set.effective().next().unwrap().1;
        assert_eq!(kept.judged["spec"]["format"], "openai");
        folder.write(
            "a.yaml",
            &format!("{}---\n{}", model("one", "m"), model("two", "m2")),
        );
        assert_eq!(folder.told(), (vec![], vec![], vec![]));
    }

    #[test]
    fn a_file_that_is_no_yaml_keeps_all_it_had() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &model("one", "m"));
        folder.look();
        folder.write("a.yaml", "apiVersion: [\n");
        let (applied, deleted, problems) = folder.told();
        assert_eq!((applied, deleted), (vec![], vec![]));
        assert!(problems[0].starts_with("a.yaml:2:"), "{problems:?}");
        assert!(!folder.look().whole);
        folder
            .files
            .insert(Origin::File("a.yaml".into()), Err("cannot be read".into()));
        assert_eq!(
            folder.told(),
            (vec![], vec![], texts(&["a.yaml: cannot be read"]))
        );
    }

    #[test]
    fn of_two_definitions_the_first_by_path_wins() {
        let mut folder = Folder::new();
        folder.write("b.yaml", &model("one", "second"));
        folder.write("a.yaml", &format!("\n{}", model("one", "first")));
        let (_, _, problems) = folder.told();
        assert_eq!(
            problems,
            ["b.yaml:1: ApiModel/bodhi/one is already defined in a.yaml, line 2"]
        );
        let models = |folder: &Folder| {
            let found = folder.set.effective().next().unwrap().1;
            found.judged["spec"]["models"][0].clone()
        };
        assert_eq!(models(&folder), "first");
        folder.remove("a.yaml");
        assert_eq!(folder.told().0, ["ApiModel/bodhi/one"]);
        assert_eq!(models(&folder), "second");
    }

    #[test]
    fn a_file_takes_the_place_of_a_built_in_document() {
        let mut folder = Folder::new();
        let built_in = Origin::BuiltIn("openai".into());
        folder.files.insert(built_in, Ok(model("one", "built-in")));
        folder.write("z.yaml", &model("one", "mine"));
        assert_eq!(folder.told().2, Vec::<String>::new());
        let found = folder.set.effective().next().unwrap().1;
        assert_eq!(found.judged["spec"]["models"][0], "mine");
    }

    #[test]
    fn what_may_not_change_is_judged_against_the_last_accepted_form() {
        let mut folder = Folder::new();
        folder.write("a.yaml", &model("one", "m"));
        folder.look();
        folder.write("a.yaml", &model("one", "m").replace("openai", "gemini"));
        let (applied, _, problems) = folder.told();
        assert!(applied.is_empty());
        assert!(
            problems[0].contains("spec.format: format cannot be changed"),
            "{problems:?}"
        );
    }

    #[test]
    fn other_kinds_are_left_out_with_a_note() {
        let mut folder = Folder::new();
        folder.write(
            "a.yaml",
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n",
        );
        let outcome = folder.look();
        assert_eq!(outcome.ignored, ["a.yaml: ConfigMap c"]);
        assert!(outcome.problems.is_empty() && outcome.applied.is_empty());
    }

    #[test]
    fn secrets_hold_bytes_and_plain_text() {
        let mut folder = Folder::new();
        folder.write(
            "a.yaml",
            "apiVersion: v1\nkind: Secret\nmetadata: {name: s, labels: {a: b}}\n\
             data: {x: c2stdGVzdA==, y: IA==}\nstringData: {y: plain}\n",
        );
        let outcome = folder.look();
        let Object::Secret(secret) = &outcome.applied[0].1.object else {
            panic!("a Secret was written");
        };
        let data = secret.data.as_ref().unwrap();
        assert_eq!(
            (&*data["x"].0, &*data["y"].0),
            (&b"sk-test"[..], &b"plain"[..])
        );
        assert_eq!(secret.metadata.namespace.as_deref(), Some("bodhi"));
    }

    #[test]
    fn problems_are_bounded_and_each_is_fresh_once() {
        let mut folder = Folder::new();
        for file in 0..300 {
            folder.write(&format!("{file}.yaml"), "kind: ApiModel\n");
        }
        let first = folder.look().problems;
        assert_eq!(first.len(), super::super::set::PROBLEMS_MAX);
        assert_eq!(fresh(&[], &first).count(), first.len());
        assert_eq!(fresh(&first, &first).count(), 0);
    }
}

/// Manifests as people write them, each judged as the API server would.
mod manifests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
    }

    fn files(name: &str) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder(name)).unwrap();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() > 10, "{name} holds few files");
        files
    }

    #[test]
    fn valid_ones_and_all_examples_are_accepted() {
        let validator = Validator::new();
        for name in ["tests/manifests/valid", "deploy/examples"] {
            for file in files(name) {
                let found = inspect(&file, "bodhi", &validator).unwrap();
                assert_eq!(found.problems, [], "{}", file.display());
                assert!(
                    !found.objects.is_empty(),
                    "{} defines nothing",
                    file.display()
                );
            }
        }
    }

    #[test]
    fn what_the_documentation_shows_is_accepted() {
        let validator = Validator::new();
        let folder_of = tempfile::tempdir().unwrap();
        let mut seen = 0;
        for page in [
            "docs/resources.md",
            "docs/moving.md",
            "docs/local-models.md",
        ] {
            let text = fs::read_to_string(folder(page)).unwrap();
            let blocks = text.split("```yaml\n").skip(1);
            let blocks = blocks.map(|rest| rest.split("```").next().unwrap_or_default());
            for block in blocks.filter(|block| block.contains("apiVersion: bodhi.dev")) {
                let file = folder_of.path().join("block.yaml");
                fs::write(&file, block).unwrap();
                let found = inspect(&file, "bodhi", &validator).unwrap();
                assert_eq!(found.problems, [], "{page}: {block}");
                seen += found.objects.len();
            }
        }
        assert!(seen >= 6, "{seen} objects are few");
    }

    #[test]
    fn invalid_ones_are_refused_at_the_field_they_want_to_be_refused_at() {
        let validator = Validator::new();
        for file in files("tests/manifests/invalid") {
            let text = fs::read_to_string(&file).unwrap();
            let wants = text
                .lines()
                .next()
                .unwrap()
                .strip_prefix("# wants: ")
                .unwrap();
            let found = inspect(&file, "bodhi", &validator).unwrap();
            let name = file.display();
            assert_eq!(found.objects, Vec::<String>::new(), "{name}");
            let problems = &found.problems;
            let wanted = problems.iter().any(|p| p.path.as_deref() == Some(wants));
            assert!(wanted, "{name} wants {wants}: {problems:#?}");
            assert!(
                problems.iter().all(|p| p.line.is_some()),
                "{name}: {problems:#?}"
            );
            // The same slip may be told of the list and of its item, never of another field.
            let others = problems.iter().filter(|p| {
                let path = p.path.as_deref().unwrap_or_default();
                !path.starts_with(wants) && !wants.starts_with(path)
            });
            assert_eq!(
                others.count(),
                0,
                "{name} has more faults than it wants: {problems:#?}"
            );
        }
    }
}

mod watched {
    //! The whole source over a real folder and a real store.
    use super::*;

    struct Running {
        events: mpsc::Receiver<ResourceEvent>,
        handle: FilesHandle,
    }

    /// A store that outlives the sources which use it, as a file outlives the program.
    fn new_store() -> (tempfile::TempDir, Arc<SqliteStore>) {
        let folder = tempfile::tempdir().unwrap();
        let keys = Arc::new(Keys::of(KeyRing::parse(RING).unwrap()));
        let store = SqliteStore::open(&folder.path().join("store.db"), keys).unwrap();
        (folder, Arc::new(store))
    }

    fn start(folder: &Path, store: &Arc<SqliteStore>) -> Running {
        let config = FilesConfig {
            folder: Some(folder.to_owned()),
            built_in: Vec::new(),
            namespace: "bodhi".into(),
        };
        let validator = Arc::new(Validator::new());
        let (events, handle) = watch_files(config, validator, Arc::clone(store) as _).unwrap();
        Running { events, handle }
    }

    impl Running {
        /// Events up to the next `Settled`: ApiModels as `verb name uid generation`.
        async fn batch(&mut self) -> Vec<String> {
            let mut batch = Vec::new();
            let tell = |verb: &str, object: &crate::api::ApiModel| {
                let metadata = &object.metadata;
                let (name, uid) = (metadata.name.as_deref(), metadata.uid.as_deref());
                assert!(metadata.creation_timestamp.is_some());
                let generation = metadata.generation.unwrap();
                format!("{verb} {} {} {generation}", name.unwrap(), uid.unwrap())
            };
            loop {
                let next = tokio::time::timeout(Duration::from_secs(30), self.events.recv());
                match next
                    .await
                    .expect("an event comes in time")
                    .expect("the source lives")
                {
                    ResourceEvent::Settled { .. } => return batch,
                    ResourceEvent::ApiModel(Event::Apply(o) | Event::InitApply(o)) => {
                        batch.push(tell("apply", &o));
                    }
                    ResourceEvent::ApiModel(Event::Delete(o)) => batch.push(tell("delete", &o)),
                    _ => {}
                }
            }
        }
    }

    #[tokio::test]
    async fn changes_arrive_and_identities_survive_a_restart() {
        let (folder, (_kept, store)) = (tempfile::tempdir().unwrap(), new_store());
        let path = folder.path().join("a.yaml");
        fs::write(&path, model("one", "m")).unwrap();
        let mut running = start(folder.path(), &store);
        let first = running.batch().await;
        assert!(
            first[0].starts_with("apply one ") && first[0].ends_with(" 1"),
            "{first:?}"
        );
        let uid = first[0].split(' ').nth(2).unwrap().to_owned();

        // Written beside and renamed over, as editors do.
        fs::write(folder.path().join(".a.yaml.tmp"), model("one", "m2")).unwrap();
        fs::rename(folder.path().join(".a.yaml.tmp"), &path).unwrap();
        assert_eq!(running.batch().await, [format!("apply one {uid} 2")]);

        drop(running);
        let mut running = start(folder.path(), &store);
        assert_eq!(running.batch().await, [format!("apply one {uid} 2")]);
        fs::remove_file(&path).unwrap();
        assert_eq!(running.batch().await, [format!("delete one {uid} 2")]);
        fs::write(&path, model("one", "m2")).unwrap();
        let again = running.batch().await;
        assert!(
            !again[0].contains(&uid),
            "a recreated object is another one: {again:?}"
        );
    }

    #[tokio::test]
    async fn what_was_deleted_while_nobody_watched_is_forgotten() {
        let (folder, (_kept, store)) = (tempfile::tempdir().unwrap(), new_store());
        let path = folder.path().join("a.yaml");
        fs::write(&path, model("one", "m")).unwrap();
        let first = start(folder.path(), &store).batch().await;
        fs::remove_file(&path).unwrap();
        assert!(start(folder.path(), &store).batch().await.is_empty());
        fs::write(&path, model("one", "m")).unwrap();
        let again = start(folder.path(), &store).batch().await;
        assert_ne!(first, again);
    }

    #[tokio::test]
    async fn a_broken_file_is_a_problem_until_it_is_mended() {
        let (folder, (_kept, store)) = (tempfile::tempdir().unwrap(), new_store());
        let path = folder.path().join("a.yaml");
        fs::write(&path, model("one", "m")).unwrap();
        let mut running = start(folder.path(), &store);
        running.batch().await;
        fs::write(&path, "kind: [").unwrap();
        running.handle.rescan().await;
        let problems = running.handle.problems();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].file.ends_with("a.yaml") && problems[0].line.is_some());
        fs::write(&path, model("one", "m")).unwrap();
        running.handle.rescan().await;
        assert!(running.handle.problems().is_empty());
    }

    #[tokio::test]
    async fn a_mounted_config_map_is_followed() {
        use std::os::unix::fs::symlink;
        let (folder, (_kept, store)) = (tempfile::tempdir().unwrap(), new_store());
        let at = |name: &str| folder.path().join(name);
        for (version, id) in [("..v1", "m"), ("..v2", "m2")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("a.yaml"), model("one", id)).unwrap();
        }
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/a.yaml", at("a.yaml")).unwrap();
        let mut running = start(folder.path(), &store);
        assert_eq!(running.batch().await.len(), 1);
        symlink("..v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        let second = running.batch().await;
        assert!(second[0].ends_with(" 2"), "{second:?}");
    }

    #[tokio::test]
    async fn files_too_large_or_not_text_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let large = "#".repeat(super::super::folder::FILE_MAX as usize + 1);
        fs::write(folder.path().join("large.yaml"), large).unwrap();
        fs::write(folder.path().join("bytes.yml"), b"a: 1\nb: \xFF\n").unwrap();
        fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
        let found = inspect(folder.path(), "bodhi", &Validator::new()).unwrap();
        let messages: Vec<&str> = found.problems.iter().map(|p| &*p.message).collect();
        assert_eq!(
            messages,
            [
                "is not UTF-8 in line 2",
                "is larger than 1048576 bytes: split it"
            ]
        );
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error_at_the_start() {
        let error = inspect(
            Path::new("/nonexistent/manifests"),
            "bodhi",
            &Validator::new(),
        );
        let message = error.unwrap_err().to_string();
        assert!(message.contains("/nonexistent/manifests"), "{message}");
    }
}
