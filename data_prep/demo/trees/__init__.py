"""Songs to files in the data sets' layouts."""
