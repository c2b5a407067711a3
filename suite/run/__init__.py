"""Running searches and exams: journals, executors, and the records they leave."""
