"""The resources Study and StudyStorage: the single source of truth for CRDs and checks."""
