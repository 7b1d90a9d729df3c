# What was removed from an image that was made of a server, and what all made of it share.

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('cloud', '0005_image_published'),
    ]

    operations = [
        migrations.AddField(
            model_name='image',
            name='cleaned',
            field=models.JSONField(null=True),
        ),
        migrations.AddField(
            model_name='image',
            name='shared',
            field=models.JSONField(default=list),
        ),
    ]
