-- What a project chooses about how its events are taken (shared/catalogue/file.py: ProjectEntry).
ALTER TABLE catalogue.project
    ADD COLUMN accept_unknown_types boolean NOT NULL DEFAULT false,
    ADD COLUMN raw_topic boolean NOT NULL DEFAULT false;   -- never taken back: records may wait in its topic
