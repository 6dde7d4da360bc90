from trainlab.storage import run_folder


def test_every_start_has_a_folder_of_its_own_the_newest_last(tmp_path):
    assert run_folder.starts(tmp_path) == [tmp_path / ".hydra"]
    names = []
    for _ in range(11):
        names.append(run_folder.next_start(tmp_path))
        (tmp_path / names[-1]).mkdir(parents=True)
    assert names[0] == ".hydra/resume-001" and names[-1] == ".hydra/resume-011"
    assert run_folder.starts(tmp_path)[1:] == [tmp_path / name for name in names]
