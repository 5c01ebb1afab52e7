"""doctor: what the machine offers, and what is wrong."""


def test_doctor_says_what_there_is_and_what_is_wrong(project):
    well = project.stage("doctor")
    assert "nothing is wrong" in well.stdout
    assert str(project.folder / "state" / "mlflow.db") in well.stdout
    assert "will be downloaded" in well.stdout

    params = project.folder / "params.yaml"
    params.write_text(params.read_text().replace("source: data/raw", "source: /nowhere/at/all"))
    unreachable = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    ill = project.stage("doctor", check=False, env=unreachable)
    assert ill.returncode == 1
    assert "wrong: data source" in ill.stdout and "'/nowhere/at/all'" in ill.stdout
    assert "wrong: tracking store" in ill.stdout and "Traceback" not in ill.stdout
